//! `penstock replay`: what a data folder recorded.

use super::exit::{Exit, Failure};
use super::flow::{self, FlowOptions, FlowStep};
use super::get::{self, GetOptions, What};
use super::table::{self, count};
use super::{Connection, Output, print};
use crate::moment::Moment;
use crate::replay::{Folder, ReplayError, Report, Verified, WrongSnapshot};
use crate::resource::show;
use clap::{Args, Subcommand};
use penstock_actors::seam::JournalError;
use serde_json::json;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Rebuilds recorded state from the journal of a data folder, and answers about it.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(after_help = "\
The folder's node must be stopped; or name a copy of the folder. Every record that is read is
checked: its number, and the chain over all records before it. Nothing is sent and nothing is
changed. A summary, and --verify, read every record; a question is answered from the last
snapshots before its moment, and the records after these.

--until takes a time (RFC 3339) or a record, as TOPIC/TOPIC-PARTITION/SEQ: everything recorded up
to then counts, that record included, and no more.

--verify chooses again for every flow that was opened, from what its record says that the decision
looked at and the objects of that time, and compares the directives. What it looks at and cannot
be found anew (seed, counts of candidates, how many ports were in use) is taken as recorded. And
it holds every snapshot, byte for byte, against what the records before it come to.

What a flow carried, and how far its connection has come, is not recorded while it lives: flows of
a past moment show as open, with no packets.

Examples:
  penstock replay --data /var/lib/penstock
  penstock replay --data copy --verify -o json
  penstock replay --data copy --until 2026-01-31T08:30:00Z flow list --requirement web
  penstock replay --data copy --until penstock.network/0/12 get requirements -o yaml")]
pub struct ReplayOptions {
    /// The data folder: `dataDirectory` of the node's configuration, or a copy.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Up to this moment only.
    #[arg(long, value_name = "TIME|RECORD")]
    pub until: Option<Moment>,
    /// Make every decision again, and compare; compare all snapshots.
    #[arg(long)]
    pub verify: bool,
    /// table for people, json or yaml for programs.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// What to ask; without, a summary is shown.
    #[command(subcommand)]
    pub question: Option<Question>,
}

/// What can be asked about recorded state.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Question {
    /// Show resources as they were (no directives, no node)
    Get(GetOptions),
    /// List or explain flows as they were
    Flow(FlowOptions),
}

impl From<ReplayError> for Failure {
    fn from(error: ReplayError) -> Failure {
        let (exit, fix) = match &error {
            ReplayError::Journal(JournalError::Locked { .. }) => (
                Exit::Failed,
                "; or replay a copy of the folder, or ask the node itself with `penstock flow` \
                 and `penstock get`",
            ),
            ReplayError::NoRecord(_) | ReplayError::Before { .. } => (Exit::NotFound, ""),
            _ => (Exit::Failed, ""),
        };
        Failure::new(exit, format!("error: {error}{fix}"))
    }
}

/// Replays.
pub(super) fn replay(options: &ReplayOptions) -> Result<ExitCode, Failure> {
    if let Some(Question::Get(GetOptions { what: What::Directives | What::Node, .. })) =
        options.question
    {
        let text = "error: a replay has no shards and no node; ask for a kind of resource or `all`";
        return Err(Failure::new(Exit::Usage, text));
    }
    if let Some(Question::Flow(FlowOptions { step: FlowStep::Watch(_) })) = options.question {
        let text = "error: nothing happens any more in what was recorded; ask with `flow explain`";
        return Err(Failure::new(Exit::Usage, text));
    }
    let folder = Folder::open(&options.data)?;
    // A summary is about every record, a question about a state.
    let (replayed, report) = match (options.verify, &options.question) {
        (true, _) => folder.verify(options.until).map(|(state, report)| (state, Some(report)))?,
        (false, None) => {
            folder.replay(options.until).map(|(state, report)| (state, Some(report)))?
        }
        (false, Some(_)) => (folder.state(options.until)?, None),
    };
    let verified = report.as_ref().and_then(|report| report.verified.clone());
    match (&options.question, report) {
        (None, report) => report.iter().for_each(|report| show_report(report, options.output)),
        (Some(question), report) => {
            if let Some(report) = report {
                eprint!("{}", report_text(&report));
            }
            let connection = Connection::Replay(folder.router(replayed, options.until)?);
            match question {
                Question::Get(options) => get::get(options, &connection)?,
                Question::Flow(options) => flow::flow(options, &connection)?,
            }
        }
    }
    let is_sound = verified.as_ref().is_none_or(Verified::is_sound);
    if is_sound {
        return Ok(ExitCode::SUCCESS);
    }
    let text = "error: records come to something else than was decided or kept";
    Err(Failure::new(Exit::Failed, text))
}

fn show_report(report: &Report, output: Output) {
    match output {
        Output::Json => {
            print(&(serde_json::to_string_pretty(report).expect("it is plain data") + "\n"));
        }
        Output::Yaml => print(&show::yaml(&json!(report))),
        Output::Table => print(&report_text(report)),
    }
}

fn report_text(report: &Report) -> String {
    let mut rows = table::table(&["what", "number"]);
    let numbers = [
        ("records", report.records),
        ("bytes", report.bytes),
        ("void records", report.void),
        ("topic partitions", report.topic_partitions),
        ("flows live", report.flows),
        ("flows opened", report.flows_opened),
        ("flows closed", report.flows_closed),
        ("bindings", report.bindings),
        ("objects", report.objects),
        ("records a second", report.records_per_second as u64),
    ];
    for (what, number) in numbers {
        rows.add_row([what.to_owned(), count(number)]);
    }
    if let Some(since) = &report.since {
        rows.add_row(["kept since".to_owned(), since.clone()]);
    }
    rows.add_row(["last time".to_owned(), report.last_time.clone()]);
    let mut out = table::text(&rows);
    if let Some(verified) = &report.verified {
        out.push('\n');
        out.push_str(&verified_text(verified));
    }
    out
}

fn verified_text(verified: &Verified) -> String {
    let mut out = format!(
        "decisions: {} made again, {} came to something else\n",
        count(verified.decisions),
        count(verified.mismatched)
    );
    for row in &verified.mismatches {
        writeln!(out, "\nrecord {} of flow {}: {}", row.record, row.flow, row.field)
            .and_then(|()| writeln!(out, "  recorded    {}", row.recorded))
            .and_then(|()| writeln!(out, "  recomputed  {}", row.recomputed))
            .expect("writing to a String succeeds");
    }
    writeln!(
        out,
        "snapshots: {} compared, {} only read, {} wrong",
        count(verified.snapshots),
        count(verified.snapshots_only_read),
        count(verified.wrong_snapshots.len() as u64)
    )
    .expect("writing to a String succeeds");
    for WrongSnapshot { record, error } in &verified.wrong_snapshots {
        writeln!(out, "  that of record {record}: {error}").expect("writing to a String succeeds");
    }
    out
}
