//! Prints the pipeline's figures.
fn main() {
    let mut cases = penstock_dataplane::bench::PipelineCases::default();
    if let Some(flows) = std::env::args().nth(1) {
        cases.flows = vec![flows.parse().expect("a number")];
        cases.directions.clear();
        cases.packets = 4_000_000;
        cases.rounds = 9;
    }
    for m in penstock_dataplane::bench::pipeline(&cases) {
        println!("{:60} {:10.1} {}", m.case, m.value, m.unit);
    }
}
