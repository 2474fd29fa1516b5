//! `penstock detach`: removes what a killed node left in the kernel.

use std::path::Path;
use std::process::ExitCode;

/// Removes what a killed node with this run directory left in the kernel: programs, links, pins.
pub fn detach(run_directory: &Path) -> ExitCode {
    if let Err(error) = super::lock::RunLock::take(run_directory) {
        eprintln!("error: {error}");
        return super::exit_of(&error).into();
    }
    match penstock_dataplane::nic::af_xdp::detach(run_directory) {
        Ok(detached) if detached.is_empty() => {
            println!("nothing was left in {}", run_directory.display());
            ExitCode::SUCCESS
        }
        Ok(detached) => {
            for port in detached {
                let program =
                    port.program.map_or("gone already".into(), |id| format!("program {id}"));
                println!("{}: detached ({program})", port.port);
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            super::exit_of(&error).into()
        }
    }
}
