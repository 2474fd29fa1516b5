//! YAML and JSON as a tree of nodes that know where they stand.
//!
//! Documents are cut apart at their `---` lines and read one by one, so that a syntax error in
//! one hides nothing of the others. Keys of a mapping keep their order and may repeat, so that
//! the reader of the tree can name the second one.

use super::problem::{Position, Problems};
use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use std::collections::BTreeMap;

/// The most nodes that one document may have, aliases written out: a bound on memory.
pub const NODES_MAX: usize = 200_000;
/// How deep a document may be nested: a bound on the stack.
pub const DEPTH_MAX: usize = 32;

/// A value with its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it begins.
    pub position: Position,
    /// What it is.
    pub value: Value,
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum Value {
    /// A scalar.
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// Keys and values in the order of the text; a key may repeat.
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Clone, Debug)]
pub struct Key {
    /// Where it begins.
    pub position: Position,
    /// The key.
    pub name: String,
}

impl Key {
    /// Where to point at for `value` of this key: at the value when it begins in the key's line,
    /// else at the key.
    pub fn place_of(&self, value: &Node) -> Position {
        let beside = value.position.line == self.position.line && !value.is_null();
        if beside { value.position } else { self.position }
    }
}

/// A scalar; numbers stay text until somebody wants one.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// Nothing, `null` or `~`.
    Null,
    /// `true` or `false`.
    Boolean(bool),
    /// A number as it was written.
    Number(String),
    /// Anything else.
    Text(String),
}

impl Node {
    /// What this is, for an error message.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a mapping".into(),
            Value::Scalar(Scalar::Null) => "empty".into(),
            Value::Scalar(Scalar::Boolean(value)) => format!("the boolean `{value}`"),
            Value::Scalar(Scalar::Number(text)) => format!("the number `{text}`"),
            Value::Scalar(Scalar::Text(text)) => format!("the text `{text}`"),
        }
    }

    /// Whether this is nothing.
    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Scalar(Scalar::Null))
    }

    /// The value at `name`, when this is a mapping that has it.
    pub fn get(&self, name: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(key, _)| key.name == name).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The place of the field `path` (`spec.targets[2].port`), or of the nearest node above it
    /// that exists.
    pub fn locate(&self, path: &str) -> Position {
        let (mut node, mut position) = (self, self.position);
        for step in path.split(['.', '[']).filter(|step| !step.is_empty()) {
            let below = match (&node.value, step.strip_suffix(']')) {
                (Value::List(items), Some(index)) => index
                    .parse::<usize>()
                    .ok()
                    .and_then(|index| items.get(index))
                    .map(|item| (item.position, item)),
                (Value::Map(entries), None) => entries
                    .iter()
                    .find(|(key, _)| key.name == step)
                    .map(|(key, value)| (key.place_of(value), value)),
                _ => None,
            };
            let Some((at, child)) = below else { break };
            (position, node) = (at, child);
        }
        position
    }

    /// A tree without positions.
    pub fn from_json(value: &serde_json::Value) -> Node {
        use serde_json::Value as Json;
        let value = match value {
            Json::Null => Value::Scalar(Scalar::Null),
            Json::Bool(value) => Value::Scalar(Scalar::Boolean(*value)),
            Json::Number(number) => Value::Scalar(Scalar::Number(number.to_string())),
            Json::String(text) => Value::Scalar(Scalar::Text(text.clone())),
            Json::Array(items) => Value::List(items.iter().map(Node::from_json).collect()),
            Json::Object(entries) => Value::Map(
                entries
                    .iter()
                    .map(|(name, value)| {
                        let key = Key { position: Position::default(), name: name.clone() };
                        (key, Node::from_json(value))
                    })
                    .collect(),
            ),
        };
        Node { position: Position::default(), value }
    }
}

/// Reads all documents of `text`. What cannot be read is added to `problems`, and the documents
/// that can be read are returned. Documents that hold nothing are left out.
pub fn documents(text: &str, problems: &mut Problems) -> Vec<Node> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut nodes = Vec::new();
    let mut start_line = 0;
    let mut chunk: Vec<&str> = Vec::new();
    for (number, line) in text.lines().chain(["---"]).enumerate() {
        let rest = line
            .strip_prefix("---")
            .filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t']));
        if rest.is_some() || line.trim_end() == "..." {
            nodes.extend(document(&chunk, start_line, problems));
            chunk.clear();
            start_line = number;
            // What stands behind the marker belongs to the document, at its own column.
            chunk.extend(rest.map(|_| line));
        } else {
            chunk.push(line);
        }
    }
    nodes
}

/// Reads one document whose first line is line `start_line` (from 0) of the file.
fn document(lines: &[&str], start_line: usize, problems: &mut Problems) -> Option<Node> {
    // Before the first `---` there may be nothing but directives (`%YAML 1.2`) and comments.
    if lines.iter().all(|line| line.trim().is_empty() || line.starts_with(['%', '#'])) {
        return None;
    }
    let text = lines.join("\n") + "\n";
    match build(&text, start_line) {
        Ok(node) => node.filter(|node| !node.is_null()),
        Err(Unreadable { position, message }) => {
            let mut tabs = 0;
            for (index, line) in lines.iter().enumerate() {
                let indent = &line[..line.len() - line.trim_start().len()];
                if let (Some(tab), false) = (indent.find('\t'), line.trim().is_empty()) {
                    tabs += 1;
                    let position = Position { line: start_line + index + 1, column: tab + 1 };
                    problems.add(position, "", "a tab in the indentation", "indent with spaces");
                }
            }
            if tabs == 0 {
                let fix = "see that indentation, quotes and brackets match";
                problems.add(position, "", format!("cannot be read as YAML: {message}"), fix);
            }
            None
        }
    }
}

struct Unreadable {
    position: Position,
    message: String,
}

/// A list or mapping that is still being read.
struct Open {
    position: Position,
    anchor: usize,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Node>),
    Map(Vec<(Key, Node)>, Option<Key>),
}

struct Builder {
    start_line: usize,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
    root: Option<Node>,
}

/// The tree of one document; none when it holds nothing.
fn build(text: &str, start_line: usize) -> Result<Option<Node>, Unreadable> {
    let mut builder =
        Builder { start_line, open: Vec::new(), anchors: BTreeMap::new(), nodes: 0, root: None };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| Unreadable {
            position: builder.position(error.marker()),
            message: error.info().to_owned(),
        })?;
        builder.event(event, span)?;
    }
    Ok(builder.root)
}

impl Builder {
    fn position(&self, marker: &saphyr_parser::Marker) -> Position {
        Position { line: self.start_line + marker.line(), column: marker.col() + 1 }
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Unreadable> {
        let position = self.position(&span.start);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let text_wanted =
                    tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
                let plain = style == ScalarStyle::Plain && !text_wanted;
                let scalar = if plain { scalar(&text) } else { Scalar::Text(text.into_owned()) };
                self.close(Node { position, value: Value::Scalar(scalar) }, anchor)
            }
            Event::SequenceStart(anchor, _) => {
                self.open(Open { position, anchor, kind: OpenKind::List(Vec::new()) })
            }
            Event::MappingStart(anchor, _) => {
                self.open(Open { position, anchor, kind: OpenKind::Map(Vec::new(), None) })
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let open = self.open.pop().expect("the parser closes only what it opened");
                let value = match open.kind {
                    OpenKind::List(items) => Value::List(items),
                    OpenKind::Map(entries, _) => Value::Map(entries),
                };
                self.close(Node { position: open.position, value }, open.anchor)
            }
            Event::Alias(anchor) => match self.anchors.get(&anchor).cloned() {
                Some(node) => {
                    self.nodes += size(&node);
                    self.close(Node { position, value: node.value }, 0)
                }
                None => Err(Unreadable { position, message: "an alias of nothing".into() }),
            },
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
        }
    }

    fn open(&mut self, open: Open) -> Result<(), Unreadable> {
        if self.open.len() >= DEPTH_MAX {
            let message = format!("nested deeper than {DEPTH_MAX}");
            return Err(Unreadable { position: open.position, message });
        }
        self.open.push(open);
        Ok(())
    }

    /// A node is complete: it goes into the list or mapping that is open.
    fn close(&mut self, node: Node, anchor: usize) -> Result<(), Unreadable> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            let message = format!("more than {NODES_MAX} values in one document");
            return Err(Unreadable { position: node.position, message });
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open { kind: OpenKind::List(items), .. }) => items.push(node),
            Some(Open { kind: OpenKind::Map(entries, waiting), .. }) => match waiting.take() {
                Some(key) => entries.push((key, node)),
                None => *waiting = Some(key(node)?),
            },
        }
        Ok(())
    }
}

/// A node that stands where a key does.
fn key(node: Node) -> Result<Key, Unreadable> {
    let name = match node.value {
        Value::Scalar(Scalar::Text(text) | Scalar::Number(text)) => text,
        Value::Scalar(Scalar::Boolean(value)) => value.to_string(),
        Value::Scalar(Scalar::Null) => String::new(),
        Value::List(_) | Value::Map(_) => {
            let message = "a list or mapping cannot be a key".into();
            return Err(Unreadable { position: node.position, message });
        }
    };
    Ok(Key { position: node.position, name })
}

fn size(node: &Node) -> usize {
    match &node.value {
        Value::Scalar(_) => 1,
        Value::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Map(entries) => 1 + entries.iter().map(|(_, value)| 1 + size(value)).sum::<usize>(),
    }
}

/// A plain scalar by the rules of the YAML 1.2 core schema (section 10.3.2).
pub(crate) fn scalar(text: &str) -> Scalar {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Scalar::Null,
        "true" | "True" | "TRUE" => Scalar::Boolean(true),
        "false" | "False" | "FALSE" => Scalar::Boolean(false),
        _ if is_number(text) => Scalar::Number(text.into()),
        _ => Scalar::Text(text.into()),
    }
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let based = |prefix: &str, radix| {
        digits
            .strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_digit(radix)))
    };
    let decimal = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.parse::<f64>().is_ok();
    decimal || based("0x", 16) || based("0o", 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_have_the_types_of_the_core_schema() {
        let check = |text: &str, expected: Scalar| assert_eq!(scalar(text), expected, "{text}");
        check("~", Scalar::Null);
        check("true", Scalar::Boolean(true));
        check("yes", Scalar::Text("yes".into()));
        check("-12", Scalar::Number("-12".into()));
        check("0x1f", Scalar::Number("0x1f".into()));
        check("1.5e3", Scalar::Number("1.5e3".into()));
        check("5000-5010", Scalar::Text("5000-5010".into()));
        check("10.0.0.1", Scalar::Text("10.0.0.1".into()));
        check("fd00::1", Scalar::Text("fd00::1".into()));
        check("inf", Scalar::Text("inf".into()));
    }

    #[test]
    fn fields_are_located_by_path() {
        let text = "a: 1\n---\nspec:\n  targets:\n  - name: x\n    port:\n  - {name: y, port: 8}\n";
        let nodes = documents(text, &mut Problems::of("f"));
        let check = |path: &str, line: usize, column: usize| {
            assert_eq!(nodes[1].locate(path), Position { line, column }, "{path}");
        };
        check("", 3, 1);
        check("spec.targets[0].name", 5, 11);
        check("spec.targets[0].port", 6, 5);
        check("spec.targets[1].port", 7, 21);
        check("spec.targets[1].weight", 7, 5);
        check("spec.targets[9]", 4, 3);
        check("status", 3, 1);
    }

    #[test]
    fn what_would_exhaust_memory_or_stack_is_refused() {
        let deep = "[".repeat(10_000);
        let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..10 {
            let below = format!("*a{}, ", level - 1).repeat(10);
            laughs.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        for text in [deep, laughs] {
            let mut problems = Problems::of("f");
            assert!(documents(&text, &mut problems).is_empty());
            assert_eq!(problems.len(), 1, "{problems}");
        }
    }
}
