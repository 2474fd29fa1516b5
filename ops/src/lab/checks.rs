//! Checks: each says what it expected and what it got, and the last line counts them.

use std::fmt::{Debug, Display};

/// The results so far.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    row: &'static str,
    passed: u32,
    failed: u32,
}

impl Checks {
    /// The checks that follow belong to this row.
    pub(crate) fn begin(&mut self, row: &'static str) {
        self.row = row;
    }

    /// Notes one check and prints it.
    pub(crate) fn that(
        &mut self,
        name: impl Display,
        expected: impl Display,
        got: impl Display,
        ok: bool,
    ) {
        let row = self.row;
        if ok {
            self.passed += 1;
            println!("  ok     {row} {name}: {}", shorten(&got.to_string()));
        } else {
            self.failed += 1;
            println!("  FAILED {row} {name}: expected {expected}, got {got}");
        }
    }

    /// Notes whether a value is the expected one.
    pub(crate) fn equal<T: PartialEq + Debug>(&mut self, name: impl Display, expected: T, got: T) {
        let ok = expected == got;
        self.that(name, format!("{expected:?}"), format!("{got:?}"), ok);
    }

    /// Notes something that stopped a whole row.
    pub(crate) fn broken(&mut self, error: impl Display) {
        self.that("the row runs to its end", "no error", error, false);
    }

    /// How many failed.
    pub(crate) fn failed(&self) -> u32 {
        self.failed
    }

    /// The last line.
    pub(crate) fn summary(&self) -> String {
        format!("{} passed, {} failed", self.passed, self.failed)
    }
}

/// What was got, in one line of bounded length.
fn shorten(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(160) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line.to_owned(),
    }
}
