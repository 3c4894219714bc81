//! `portcullis mock`: the mock provider on a port of its own.

use std::net::SocketAddr;
use std::process::ExitCode;

use super::{diagnostics, fail};
use crate::mock;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:4109")]
    listen: SocketAddr,
    #[command(flatten)]
    options: mock::Options,
}

pub(super) fn run(args: Args) -> ExitCode {
    diagnostics("info");
    let served = tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind(args.listen).await?;
            tracing::info!("the mock provider serves http://{}", listener.local_addr()?);
            mock::serve(listener, args.options).await;
            Ok(())
        })
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &format!("portcullis mock: {}: {error}", args.listen)),
    }
}
