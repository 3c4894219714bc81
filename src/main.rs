//! The `portcullis` command: `portcullis serve` and its siblings are in `cli`, the map of the rest in `lib.rs`.

use std::process::ExitCode;

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    portcullis::cli::main()
}
