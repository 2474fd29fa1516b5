//! `POST /v1/apply`: the whole list is checked before anything of it is done.

use super::plane::{Answer, FieldRefusal, Outcome, Plane};
use crate::resource::problem::one_of;
use crate::resource::{Kind, Resource, Spec};
use serde::{Deserialize, Serialize};

/// What became of an apply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplyReply {
    /// Whether this only says what would be.
    pub dry_run: bool,
    /// Whether all of it was done (or would be); when not, see the refusals.
    pub accepted: bool,
    /// One for each resource, in the order in which they were sent.
    pub results: Vec<ApplyResult>,
}

/// What became of one resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyResult {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What became of it. Where a whole list was not done because of others, this is what would
    /// have become of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Checks all of `resources` in reference order, then puts them one by one, unless one is
/// refused or `dry_run` is asked for.
pub(super) async fn apply<P: Plane>(
    plane: &P,
    resources: Vec<Resource>,
    dry_run: bool,
) -> Answer<ApplyReply> {
    let order = reference_order(&resources);
    let ordered: Vec<Resource> = order.iter().map(|index| resources[*index].clone()).collect();
    let mut outcomes = plane.check(ordered.clone()).await?;
    refuse_unknown_ports(plane, &ordered, &mut outcomes).await?;
    let refused = |outcomes: &[Outcome]| {
        outcomes.iter().any(|outcome| matches!(outcome, Outcome::Refused { .. }))
    };
    if !dry_run && !refused(&outcomes) {
        for (resource, outcome) in ordered.into_iter().zip(&mut outcomes) {
            // What is unchanged already costs no record and no answer from the journal.
            if !matches!(outcome, Outcome::Unchanged { .. }) {
                *outcome = plane.put(resource).await?;
            }
        }
    }
    let accepted = !refused(&outcomes);
    let mut results: Vec<(usize, ApplyResult)> = order
        .into_iter()
        .zip(outcomes)
        .map(|(index, outcome)| {
            let resource = &resources[index];
            let (kind, name) = (resource.kind().name().to_owned(), resource.name.clone());
            (index, ApplyResult { kind, name, outcome })
        })
        .collect();
    results.sort_by_key(|(index, _)| *index);
    let results = results.into_iter().map(|(_, result)| result).collect();
    Ok(ApplyReply { dry_run, accepted, results })
}

/// Refuses networks at ports that the node does not take: nothing would ever come in there.
async fn refuse_unknown_ports<P: Plane>(
    plane: &P,
    resources: &[Resource],
    outcomes: &mut [Outcome],
) -> Answer<()> {
    if !resources.iter().any(|resource| resource.kind() == Kind::Network) {
        return Ok(());
    }
    let taken: Vec<String> =
        plane.status().await?.ports.into_iter().map(|port| port.name).collect();
    let names: Vec<&str> = taken.iter().map(String::as_str).collect();
    for (resource, outcome) in resources.iter().zip(outcomes) {
        let Spec::Network(network) = &resource.spec else { continue };
        let port = network.attachment.port();
        if names.contains(&port) {
            continue;
        }
        let refusal = FieldRefusal {
            field: "spec.attachment.port".into(),
            message: format!("the node does not take port `{port}`"),
            fix: format!(
                "use {}, or add it to `ports` of the node's configuration and start the node again",
                one_of(&names)
            ),
        };
        match outcome {
            Outcome::Refused { refusals } => refusals.push(refusal),
            other => *other = Outcome::Refused { refusals: vec![refusal] },
        }
    }
    Ok(())
}

/// The indices of `resources` so that what is referred to comes before what refers to it; within
/// a kind they keep their order.
fn reference_order(resources: &[Resource]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..resources.len()).collect();
    order.sort_by_key(|index| {
        let kind: Kind = resources[*index].kind();
        kind
    });
    order
}
