//! The command line of vmtrace.

use std::process::ExitCode;

use clap::Parser;
use vmtrace::cli::{self, Cli};

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| cli::refuse(&error));
    match cli::run(cli) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            cli::complain(&format!("{error:#}"));
            ExitCode::from(cli::FAILED)
        }
    }
}
