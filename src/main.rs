//! The command line of vmtrace.

use std::process::ExitCode;

use clap::Parser;
use vmtrace::cli::{self, Cli};

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("vmtrace: {error:#}");
            ExitCode::from(cli::FAILED)
        }
    }
}
