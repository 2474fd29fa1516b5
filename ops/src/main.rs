//! The `penstock` binary: everything is in the library.

use std::process::ExitCode;

/// Records are made in one thread and freed in another: each flow's opening passes three, and the
/// system's allocator makes them wait for each other there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    penstock_ops::cli::main()
}
