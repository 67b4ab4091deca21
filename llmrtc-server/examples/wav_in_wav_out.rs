//! A call from files: `cargo run --example wav_in_wav_out -- question.wav answer.wav`.
//!
//! Server and caller share this process, yet the call between them is a real one: WebSocket, DTLS, Opus.

#![expect(clippy::print_stdout, reason = "a program whose output is the result")]

use std::{fs::File, io::BufWriter, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use clap::Parser;
use llmrtc_core::audio::SampleRate;
use llmrtc_media::codec::wav::{WavReader, WavWriter};
use llmrtc_server::{
    Server,
    client::{CallEvent, Phone, call::play},
    config::Config,
    listen::listen,
};
use llmrtc_signal::{client::Options, protocol::ServerMessage};
use tokio::{task::JoinSet, time::timeout};

/// Longest wait for the next thing to happen.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Parser)]
struct Args {
    /// What to say: a WAV file.
    question: PathBuf,
    /// Where to write what is answered.
    answer: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let question = std::fs::read(&args.question).context("cannot read the question")?;
    let question = WavReader::new(question.into())?.read_all();
    let answer = BufWriter::new(File::create(&args.answer).context("cannot write the answer")?);
    let mut answer = WavWriter::new(answer, SampleRate::HZ_48000)?;

    let mut config = Config::default();
    config.server.port = 0;
    let listening = listen(&config).await?;
    let address = listening.address;
    let server = Server::builder(config)
        .build(address, listening.exposure)
        .await?;
    let service = server
        .router()
        .into_make_service_with_connect_info::<SocketAddr>();
    // Ends with this function.
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(listening.listener, service).await });

    let url = format!("ws://{address}/").parse()?;
    let mut call = Phone::new()?.call(Options::new(url)).await?;
    call.share_microphone().await?;
    // The events of the microphone itself do not matter here.
    let _spoken = play(&call, question);
    loop {
        match timeout(PATIENCE, call.next())
            .await
            .context("nothing happens")?
        {
            CallEvent::Audio(frame) => answer.write(&frame.pcm)?,
            CallEvent::Message(ServerMessage::Transcript {
                text,
                is_final: true,
            }) => {
                println!("heard:    {text}");
            }
            CallEvent::Message(ServerMessage::Llm { text }) => println!("answered: {text}"),
            CallEvent::Message(ServerMessage::TtsComplete) => break,
            CallEvent::Message(ServerMessage::Error { code, message, .. }) => {
                bail!("{code}: {message}")
            }
            CallEvent::Lost(reason) => bail!("the connection was lost: {reason:?}"),
            _ => {}
        }
    }
    call.hang_up().await;
    answer.finish()?;
    Ok(())
}
