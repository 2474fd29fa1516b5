//! Resources in the form that Kubernetes users know: `apiVersion`, `kind`, `metadata`, `spec`.
//!
//! [`read`] turns the text of a file into resources or into everything that is wrong with it;
//! [`show`] turns resources back into JSON and YAML. What the node refuses afterwards names an
//! object and a field path, which [`Document::problem`] turns into a place in the file.

pub mod decode;
mod kinds;
pub(crate) use kinds::interface;
pub mod node;
pub mod problem;
pub mod show;

pub use penstock_actors::network::spec::{self, Kind, Spec};

use node::{Node, Value};
use problem::{Position, Problem, Problems, did_you_mean};

/// The only version of the resource form.
pub const API_VERSION: &str = "penstock/v1";

/// A kind as on the command line and in paths of the API.
pub const fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Network => "networks",
        Kind::TargetSet => "targetsets",
        Kind::Endpoint => "endpoints",
        Kind::Requirement => "requirements",
    }
}

/// The kind that a user means: singular or plural, in any case.
///
/// # Errors
/// There is none of that name; the text says which there are.
pub fn kind_of(text: &str) -> Result<Kind, String> {
    let lower = text.to_lowercase();
    let known = Kind::ALL
        .into_iter()
        .find(|kind| lower == plural(*kind) || lower == kind.name().to_lowercase());
    known.ok_or_else(|| {
        let names = Kind::ALL.map(plural);
        match did_you_mean(&lower, &names) {
            Some(meant) => format!("`{text}` is no kind; did you mean `{meant}`?"),
            None => format!("`{text}` is no kind; write {}", problem::one_of(&names)),
        }
    })
}

/// One resource as applied or as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Unique among its kind.
    pub name: String,
    /// How often it has been changed; 0 for one that is about to be applied.
    pub generation: u32,
    /// What it says.
    pub spec: Spec,
}

impl Resource {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.spec.kind()
    }
}

/// A resource with the text it was read from.
#[derive(Clone, Debug)]
pub struct Document {
    /// The file as the user named it.
    pub file: String,
    /// What was written.
    pub node: Node,
    /// What was understood.
    pub resource: Resource,
}

impl Document {
    /// What the node found wrong with this resource, at its place in the file.
    pub fn problem(&self, field: &str, message: &str, fix: &str) -> Problem {
        Problem {
            file: self.file.clone(),
            position: self.node.locate(field),
            field: field.to_owned(),
            message: message.to_owned(),
            fix: fix.to_owned(),
        }
    }
}

/// Reads the text of a file: several documents, each a resource, a list of resources or a `List`.
///
/// # Errors
/// Everything that is wrong with the text.
pub fn read(file: &str, text: &str) -> Result<Vec<Document>, Problems> {
    let mut problems = Problems::of(file);
    let nodes = node::documents(text, &mut problems);
    let nodes: Vec<Node> = nodes.into_iter().flat_map(|node| unfold(node, &mut problems)).collect();
    if nodes.is_empty() && problems.is_empty() {
        let fix = "write at least one resource: apiVersion, kind, metadata and spec";
        problems.add(Position { line: 1, column: 1 }, "", "holds no resource", fix);
    }
    let documents = decode_all(file, nodes, &mut problems);
    if problems.is_empty() { Ok(documents) } else { Err(problems) }
}

/// Decodes resources that came as JSON: one, a list, or a `List`.
///
/// # Errors
/// Everything that is wrong; positions are not known.
pub fn read_json(value: &serde_json::Value) -> Result<Vec<Document>, Problems> {
    let mut problems = Problems::of("");
    let nodes = unfold(Node::from_json(value), &mut problems);
    let mut documents = Vec::new();
    for (index, node) in nodes.into_iter().enumerate() {
        problems.file = format!("item {index}");
        if let Some(resource) = kinds::resource(&node, &mut problems) {
            documents.push(Document { file: problems.file.clone(), node, resource });
        }
    }
    duplicates(&documents, &mut problems);
    if problems.is_empty() { Ok(documents) } else { Err(problems) }
}

/// The documents of several files that are applied together: a name may stand there once.
///
/// # Errors
/// Everything that is wrong in any of them.
pub fn read_files(files: &[(String, String)]) -> Result<Vec<Document>, Problems> {
    let mut problems = Problems::default();
    let mut documents = Vec::new();
    for (file, text) in files {
        match read(file, text) {
            Ok(more) => documents.extend(more),
            Err(more) => problems.append(more),
        }
    }
    if files.len() > 1 && problems.is_empty() {
        duplicates(&documents, &mut problems);
    }
    if problems.is_empty() { Ok(documents) } else { Err(problems) }
}

/// The resources of a document that may hold several.
fn unfold(node: Node, problems: &mut Problems) -> Vec<Node> {
    let is_list = |node: &Node| {
        matches!(node.get("kind").map(|kind| &kind.value),
            Some(Value::Scalar(node::Scalar::Text(text))) if text == "List")
    };
    if is_list(&node) {
        let field = decode::Field::root(&node);
        let Some(mut fields) = field.fields(problems) else { return Vec::new() };
        kinds::api_version(&mut fields, problems);
        fields.optional("kind");
        fields.optional("metadata");
        let items = fields.required("items", "items: [...]", problems);
        let items = items.and_then(|items| items.items(problems)).unwrap_or_default();
        fields.finish(problems);
        return items.into_iter().map(|item| item.node.clone()).collect();
    }
    match node.value {
        Value::List(items) => items,
        _ => vec![node],
    }
}

fn decode_all(file: &str, nodes: Vec<Node>, problems: &mut Problems) -> Vec<Document> {
    let mut documents = Vec::new();
    for node in nodes {
        if let Some(resource) = kinds::resource(&node, problems) {
            documents.push(Document { file: file.to_owned(), node, resource });
        }
    }
    duplicates(&documents, problems);
    documents
}

/// Notes resources that have the kind and name of an earlier one.
fn duplicates(documents: &[Document], problems: &mut Problems) {
    for (index, document) in documents.iter().enumerate() {
        let (kind, name) = (document.resource.kind(), &document.resource.name);
        let first = documents[..index]
            .iter()
            .find(|other| other.resource.kind() == kind && other.resource.name == *name);
        let Some(first) = first else { continue };
        let place = first.node.locate("metadata.name");
        let place = match (first.file.as_str(), place.line) {
            (item, 0) => format!("as {item}"),
            (file, line) if file == document.file => format!("in line {line}"),
            (file, line) => format!("in {file}:{line}"),
        };
        problems.push(document.problem(
            "metadata.name",
            &format!("{kind} `{name}` stands here a second time, first {place}"),
            "rename or remove one of the two",
        ));
    }
}
