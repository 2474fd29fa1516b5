//! How figures are shown: a table for people, one JSON object a line for programs.

use crate::cli::table;
use serde::Serialize;

/// One figure, beside its peer's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Figure {
    /// `pipeline`, `nic`, `open`, `recover` or `replay`.
    pub(super) bench: &'static str,
    /// What was varied, for example `flows=1000000`.
    pub(super) case: String,
    /// Ours.
    pub(super) value: f64,
    /// Its unit, for example `packets/s`.
    pub(super) unit: &'static str,
    /// Beside whom, if anybody.
    pub(super) peer: Option<&'static str>,
    /// The peer's.
    pub(super) peer_value: Option<f64>,
    /// Ours by the peer's.
    pub(super) ratio: Option<f64>,
    /// Processor cores that ours kept busy, where that was measured.
    pub(super) cores: Option<f64>,
}

impl Figure {
    /// A figure that stands alone.
    pub(super) fn alone(
        bench: &'static str,
        case: impl Into<String>,
        value: f64,
        unit: &'static str,
    ) -> Figure {
        let case = case.into();
        Figure { bench, case, value, unit, peer: None, peer_value: None, ratio: None, cores: None }
    }

    /// The same beside a peer's.
    pub(super) fn beside(self, peer: &'static str, value: f64) -> Figure {
        let ratio = (value > 0.0).then(|| self.value / value);
        Figure { peer: Some(peer), peer_value: Some(value), ratio, ..self }
    }

    /// The same with the cores that it took.
    pub(super) fn on(self, cores: f64) -> Figure {
        Figure { cores: Some(cores), ..self }
    }
}

/// Prints figures to the standard output.
pub(super) fn print(figures: &[Figure], json: bool) {
    if json {
        for figure in figures {
            println!("{}", serde_json::to_string(figure).expect("it is plain data"));
        }
        return;
    }
    let mut rows =
        table::table(&["bench", "case", "value", "unit", "peer", "peer's", "ratio", "cores"]);
    for figure in figures {
        let optional = |value: Option<f64>, digits: usize| {
            value.map(|value| format!("{value:.digits$}")).unwrap_or_default()
        };
        rows.add_row([
            figure.bench.to_owned(),
            figure.case.clone(),
            number(figure.value),
            figure.unit.to_owned(),
            figure.peer.unwrap_or_default().to_owned(),
            figure.peer_value.map(number).unwrap_or_default(),
            optional(figure.ratio, 2),
            optional(figure.cores, 2),
        ]);
    }
    print!("{}", table::text(&rows));
}

/// Whole when it is large.
fn number(value: f64) -> String {
    if value.abs() >= 1000.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::Figure;

    #[test]
    fn a_line_has_the_promised_fields() {
        let check = |figure: Figure, expected: &str| {
            assert_eq!(serde_json::to_string(&figure).unwrap(), expected);
        };
        let figure = Figure::alone("nic", "flows=10000", 500.0, "packets/s");
        check(
            figure.clone(),
            r#"{"bench":"nic","case":"flows=10000","value":500.0,"unit":"packets/s","peer":null,"peer_value":null,"ratio":null,"cores":null}"#,
        );
        check(
            figure.beside("bare", 250.0).on(1.5),
            r#"{"bench":"nic","case":"flows=10000","value":500.0,"unit":"packets/s","peer":"bare","peer_value":250.0,"ratio":2.0,"cores":1.5}"#,
        );
    }
}
