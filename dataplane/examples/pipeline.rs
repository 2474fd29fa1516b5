//! Prints the pipeline's figures.
fn main() {
    let mut cases = penstock_dataplane::bench::PipelineCases::default();
    let args: Vec<u32> = std::env::args().skip(1).map(|a| a.parse().expect("a number")).collect();
    if let Some(&flows) = args.first() {
        cases.flows = vec![flows];
        cases.directions.clear();
        cases.packets = args.get(1).copied().unwrap_or(4_000_000);
        cases.rounds = args.get(2).copied().unwrap_or(9);
    }
    for m in penstock_dataplane::bench::pipeline(&cases) {
        println!("{:60} {:10.1} {}", m.case, m.value, m.unit);
    }
}
