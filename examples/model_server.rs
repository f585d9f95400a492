//! A model without a key: a server that speaks the protocols of Anthropic and of OpenAI as strictly as they do, and
//! answers the same to the same. It calls the tools that a task names, else the first one that it is offered, and then
//! says what came of them.
//!
//! ```text
//! cargo run --example model_server -- --listen 127.0.0.1:8090
//! ANTHROPIC_BASE_URL=http://127.0.0.1:8090 ANTHROPIC_API_KEY=any theazo serve
//! ```
#![expect(clippy::print_stdout, reason = "it says where it listens")]

#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../tests/it/support/models/mod.rs"]
mod models;

use clap::Parser;
use models::{ModelServer, closed_loop};
use tokio::net::TcpListener;

/// A model's vendor that needs no key: it speaks Anthropic's and OpenAI's protocols
#[derive(Parser)]
struct Arguments {
    /// The address and port to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    listen: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let listener = TcpListener::bind(Arguments::parse().listen).await?;
    let server = ModelServer::on(listener, closed_loop);
    println!("listening on http://{}", server.address);
    println!("  ANTHROPIC_BASE_URL={} ANTHROPIC_API_KEY=any", server.anthropic_url());
    println!("  OPENAI_BASE_URL={} OPENAI_API_KEY=any", server.openai_url());
    tokio::signal::ctrl_c().await?;
    Ok(())
}
