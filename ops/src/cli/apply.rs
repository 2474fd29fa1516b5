//! `penstock apply` and `penstock delete`: files in, outcomes out.

use super::exit::{Exit, Failure};
use super::table;
use super::{Connection, Output, print};
use crate::api::plane::Outcome;
use crate::api::{ApplyReply, ApplyResult};
use crate::client::percent_encoded;
use crate::resource::problem::Problems;
use crate::resource::{Document, Kind, kind_of, plural, read_files, show};
use clap::Args;
use hyper::StatusCode;
use serde_json::json;
use std::io::Read;

/// Creates and changes resources from files. Never deletes.
///
/// All files are read and checked as a whole first: when anything is wrong, everything that is
/// wrong is printed with its place, and nothing is changed.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(after_help = "\
Examples:
  penstock apply -f web.yaml
  penstock apply -f networks.yaml -f web.yaml --dry-run
  penstock get all -o yaml | penstock apply -f -")]
pub struct ApplyOptions {
    /// A YAML or JSON file with resources, `-` for the standard input. May be repeated.
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    pub files: Vec<String>,
    /// Check everything and say what would be done.
    #[arg(long)]
    pub dry_run: bool,
    /// How the outcome is shown.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Deletes resources, by name or as named in files.
///
/// What other resources refer to is not deleted; with files, the order is found.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(after_help = "\
Examples:
  penstock delete requirement web
  penstock delete -f web.yaml
  penstock delete endpoints web mail --ignore-missing")]
pub struct DeleteOptions {
    /// networks, targetsets, endpoints or requirements.
    #[arg(value_name = "KIND", value_parser = kind_of, required_unless_present = "files", conflicts_with = "files")]
    pub kind: Option<Kind>,
    /// The names.
    #[arg(value_name = "NAME", required_unless_present = "files", conflicts_with = "files")]
    pub names: Vec<String>,
    /// A file whose resources are deleted, `-` for the standard input. May be repeated.
    #[arg(short, long = "file", value_name = "FILE")]
    pub files: Vec<String>,
    /// Take it for done when there is no such resource.
    #[arg(long)]
    pub ignore_missing: bool,
}

/// The documents of files as the user named them.
fn documents(names: &[String]) -> Result<Vec<Document>, Failure> {
    let mut files = Vec::new();
    for name in names {
        let mut text = String::new();
        let (shown, read) = match name.as_str() {
            "-" => ("<stdin>", std::io::stdin().read_to_string(&mut text).map(|_| ())),
            path => (path, std::fs::read_to_string(path).map(|content| text = content)),
        };
        read.map_err(|error| {
            Failure::new(Exit::Failed, format!("error: cannot read {shown}: {error}"))
        })?;
        files.push((shown.to_owned(), text));
    }
    Ok(read_files(&files)?)
}

/// Applies files.
pub(super) fn apply(options: &ApplyOptions, connection: &Connection) -> Result<(), Failure> {
    let documents = documents(&options.files)?;
    let resources: Vec<_> =
        documents.iter().map(|document| show::json(&document.resource)).collect();
    let path = if options.dry_run { "/v1/apply?dryRun=true" } else { "/v1/apply" };
    let reply = connection.post(path, &json!(resources))?;
    if !reply.status.is_success() && reply.status != StatusCode::UNPROCESSABLE_ENTITY {
        return Err(super::declined(&reply));
    }
    let answer: ApplyReply = reply.json()?;
    match options.output {
        Output::Json => {
            print(&(serde_json::to_string_pretty(&answer).expect("it is plain data") + "\n"))
        }
        Output::Yaml => print(&show::yaml(&json!(answer))),
        Output::Table if answer.accepted => print(&outcomes(&answer)),
        Output::Table => {}
    }
    if answer.accepted { Ok(()) } else { Err(refusals(&documents, &answer)) }
}

fn outcomes(answer: &ApplyReply) -> String {
    let mut rows = table::table(&["kind", "name", "outcome", "generation"]);
    for result in &answer.results {
        let would = if answer.dry_run { " (dry run)" } else { "" };
        rows.add_row([
            result.kind.clone(),
            result.name.clone(),
            format!("{}{would}", result.outcome.name()),
            result
                .outcome
                .generation()
                .map(|generation| generation.to_string())
                .unwrap_or_default(),
        ]);
    }
    table::text(&rows)
}

/// What the node refused, at its places in the files.
pub(super) fn refusals(documents: &[Document], answer: &ApplyReply) -> Failure {
    let mut problems = Problems::default();
    for (document, result) in documents.iter().zip(&answer.results) {
        if let Outcome::Refused { refusals } = &result.outcome {
            for refusal in refusals {
                problems.push(document.problem(&refusal.field, &refusal.message, &refusal.fix));
            }
        }
    }
    Failure::from(problems)
}

/// Deletes by name or by files.
pub(super) fn delete(options: &DeleteOptions, connection: &Connection) -> Result<(), Failure> {
    let mut doomed: Vec<(Kind, String)> = match options.kind {
        Some(kind) => options.names.iter().map(|name| (kind, name.clone())).collect(),
        None => documents(&options.files)?
            .into_iter()
            .map(|document| (document.resource.kind(), document.resource.name))
            .collect(),
    };
    // What refers comes before what is referred to.
    doomed.sort_by_key(|(kind, _)| std::cmp::Reverse(*kind));
    let mut rows = table::table(&["kind", "name", "outcome"]);
    let mut failures = Vec::new();
    for (kind, name) in doomed {
        let reply =
            connection.delete(&format!("/v1/{}/{}", plural(kind), percent_encoded(&name)))?;
        if reply.status.is_success() {
            let result: ApplyResult = reply.json()?;
            rows.add_row([result.kind.as_str(), &result.name, result.outcome.name()]);
        } else if reply.status == StatusCode::NOT_FOUND && options.ignore_missing {
            rows.add_row([kind.name(), &name, "not there"]);
        } else {
            failures.push(super::declined(&reply));
        }
    }
    if !rows.is_empty() {
        print(&table::text(&rows));
    }
    match failures.first().map(|failure| failure.exit) {
        None => Ok(()),
        Some(exit) => {
            let lines: Vec<String> = failures.into_iter().map(|failure| failure.text).collect();
            Err(Failure::new(exit, lines.join("\n")))
        }
    }
}
