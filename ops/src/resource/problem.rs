//! What is wrong in a file, said so that it can be mended: where, which field, what, and how.

use std::fmt;

/// A place in a text. Lines and columns start at 1 and count characters; 0 means that the place
/// is not known (JSON that came over the API has none).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

/// One thing that is wrong.
///
/// Shown as `file:line:column: field: message; fix`. Parts that are not known are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file as the user named it; empty when there is none.
    pub file: String,
    /// Where in the file.
    pub position: Position,
    /// The path of the field, for example `spec.targets[2].port`; empty for a whole document.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}:", self.file)?;
            if self.position.line > 0 {
                write!(f, "{}:{}:", self.position.line, self.position.column)?;
            }
            f.write_str(" ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)?;
        if !self.fix.is_empty() {
            write!(f, "; {}", self.fix)?;
        }
        Ok(())
    }
}

/// Everything that is wrong, in the order of the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    /// The file that is being read; copied into each problem.
    pub(crate) file: String,
    list: Vec<Problem>,
}

impl Problems {
    /// None yet, for `file` as the user named it.
    pub fn of(file: &str) -> Problems {
        Problems { file: file.to_owned(), list: Vec::new() }
    }

    /// Adds one.
    pub fn add(
        &mut self,
        position: Position,
        field: impl Into<String>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.list.push(Problem {
            file: self.file.clone(),
            position,
            field: field.into(),
            message: message.into(),
            fix: fix.into(),
        });
    }

    /// Adds one that is complete.
    pub fn push(&mut self, problem: Problem) {
        self.list.push(problem);
    }

    /// Takes over those of another file.
    pub fn append(&mut self, mut other: Problems) {
        self.list.append(&mut other.list);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All of them. Those of one file stand in the order of its text.
    pub fn into_list(mut self) -> Vec<Problem> {
        self.sort();
        self.list
    }

    /// All of them, in the order of the text of each file.
    pub fn list(&mut self) -> &[Problem] {
        self.sort();
        &self.list
    }

    fn sort(&mut self) {
        // Files keep the order in which they were given; a stable sort by position within them.
        let mut files: Vec<String> = Vec::new();
        for problem in &self.list {
            if !files.contains(&problem.file) {
                files.push(problem.file.clone());
            }
        }
        self.list.sort_by_key(|problem| {
            let file = files.iter().position(|file| *file == problem.file);
            (file, problem.position)
        });
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.clone();
        for problem in sorted.list() {
            writeln!(f, "{problem}")?;
        }
        Ok(())
    }
}

/// The known name that was probably meant by `written`, if one is near.
pub fn did_you_mean<'a>(written: &str, known: &[&'a str]) -> Option<&'a str> {
    let lower = written.to_lowercase();
    let near = |name: &&'a str| {
        let known = name.to_lowercase();
        let edits = distance(&lower, &known);
        let edits_max = (known.len().max(lower.len()) / 3).max(1);
        let begun = lower.len() >= 3 && known.starts_with(&lower);
        (edits <= edits_max || begun).then_some((edits, *name))
    };
    known.iter().filter_map(near).min_by_key(|(edits, _)| *edits).map(|(_, name)| name)
}

/// Names as a list in a sentence: `a`, `b` or `c`.
pub fn one_of(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

/// Edits (insert, remove, replace, swap of neighbours) between two words: optimal string
/// alignment distance.
fn distance(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.chars().collect();
    let to: Vec<char> = to.chars().collect();
    let mut rows: Vec<Vec<usize>> = vec![(0..=to.len()).collect()];
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let replace = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_meant() {
        let check = |written: &str, meant: Option<&str>| {
            let known = ["targetSet", "policy", "port", "ports", "protocol"];
            assert_eq!(did_you_mean(written, &known), meant, "{written}");
        };
        check("targetset", Some("targetSet"));
        check("tragetSet", Some("targetSet"));
        check("polcy", Some("policy"));
        check("prot", Some("port"));
        check("pol", Some("policy"));
        check("pods", None);
        check("colour", None);
        check("", None);
    }

    #[test]
    fn parts_that_are_not_known_are_left_out() {
        let check = |file: &str, line: usize, field: &str, fix: &str, shown: &str| {
            let problem = Problem {
                file: file.into(),
                position: Position { line, column: 3 },
                field: field.into(),
                message: "is wrong".into(),
                fix: fix.into(),
            };
            assert_eq!(problem.to_string(), shown);
        };
        check("a.yaml", 2, "spec.x", "do y", "a.yaml:2:3: spec.x: is wrong; do y");
        check("a.yaml", 0, "spec.x", "do y", "a.yaml: spec.x: is wrong; do y");
        check("", 0, "", "", "is wrong");
    }
}
