//! What happened in a run, line by line. Two runs are the same when their traces have the same
//! hash: a running BLAKE3 over all lines. The newest lines are kept for a failure's report.

use penstock_event_schema::epoch::Chain;
use penstock_event_schema::id::Time;
use std::collections::VecDeque;
use std::fmt;
use std::fmt::Write;

/// The trace of a run.
pub struct Trace {
    hash: Chain,
    lines: u64,
    newest: VecDeque<String>,
    newest_max: usize,
    began: Time,
    line: String,
    printed: bool,
}

impl Trace {
    /// An empty trace of a run that begins at `began` and keeps its `newest_max` last lines. With
    /// `printed` each line also goes to standard error.
    pub fn new(began: Time, newest_max: usize, printed: bool) -> Trace {
        Trace {
            hash: Chain::default(),
            lines: 0,
            newest: VecDeque::new(),
            newest_max,
            began,
            line: String::new(),
            printed,
        }
    }

    /// Adds a line: microseconds since the beginning, and `what`.
    pub fn line(&mut self, now: Time, what: fmt::Arguments<'_>) {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        let nanoseconds = now.since(self.began);
        write!(line, "{:>10}.{:03} {what}", nanoseconds / 1000, nanoseconds % 1000)
            .expect("a string takes all text");
        self.hash = self.hash.next(&[], line.as_bytes());
        self.lines += 1;
        if self.printed {
            eprintln!("{line}");
        }
        if self.newest_max > 0 {
            let spare = match self.newest.len() < self.newest_max {
                true => String::new(),
                false => self.newest.pop_front().unwrap_or_default(),
            };
            self.newest.push_back(std::mem::replace(&mut line, spare));
        }
        self.line = line;
    }

    /// The hash over all lines so far.
    pub fn hash(&self) -> Chain {
        self.hash
    }

    /// How many lines there are.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The newest lines, oldest first.
    pub fn newest(&self) -> impl Iterator<Item = &str> {
        self.newest.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(lines: &[(u64, &str)]) -> Chain {
        let mut trace = Trace::new(Time(0), 1, false);
        for (time, text) in lines {
            trace.line(Time(*time), format_args!("{text}"));
        }
        assert_eq!(trace.newest().count(), lines.len().min(1));
        trace.hash()
    }

    #[test]
    fn a_trace_tells_runs_apart() {
        let run = [(1, "a"), (2, "b")];
        assert_eq!(hash(&run), hash(&run));
        for other in
            [&[(1, "a")][..], &[(1, "a"), (3, "b")], &[(2, "b"), (1, "a")], &[(1, "ab"), (2, "")]]
        {
            assert_ne!(hash(&run), hash(other), "{other:?}");
        }
    }
}
