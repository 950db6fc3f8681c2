//! A collector inside another program.
//!
//! `cargo run --release -p jurat-collector --example embed_collector -- DIR`
#![expect(clippy::print_stdout, reason = "an example speaks to its reader")]

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use jurat_collector::{Archive, Builder, Settings};
use jurat_disk::Host;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args()
        .nth(1)
        .map_or_else(|| PathBuf::from("collector"), PathBuf::from);
    // Everything in one folder, with a generated certificate. A real one: Settings::load(path).
    let settings = Settings::dev(&Host::real(), &dir, "127.0.0.1:8443".parse()?)?;
    let running = Builder::new(settings).start().await?;
    println!("listening on https://{}", running.address);
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        println!("{:?}", running.with_archive(Archive::stats));
    }
    running.stop().await?;
    Ok(())
}
