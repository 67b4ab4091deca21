//! Servers with larger models that already run on this machine.
//!
//! ```no_run
//! use llmrtc_providers::{http::HttpClient, local::neighbour::{NeighbourPorts, neighbours}, openai::OpenAiLlm};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! if let Some(neighbour) = neighbours(NeighbourPorts::default()).await.first() {
//!     // Found Ollama at http://127.0.0.1:11434/v1 with 2 models; taking llama3.2:latest.
//!     println!("Found {neighbour}");
//!     let llm = OpenAiLlm::new(neighbour.config(), HttpClient::new()?)?;
//! }
//! # Ok(())
//! # }
//! ```

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use futures_util::future::{join, join_all};
use reqwest::redirect::Policy;
use serde::Deserialize;
use tokio::time::timeout;

use crate::openai::{ChatConfig, Dialect};

/// All questions together. A server on the same machine that takes longer is busy with something else.
const BUDGET: Duration = Duration::from_millis(300);
/// Longest list of models that is read.
const MAX_BYTES: usize = 1 << 20;

/// A server that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Neighbour {
    /// Which server it is taken for, by its port.
    pub dialect: Dialect,
    /// The address that `/chat/completions` is appended to, such as `http://127.0.0.1:11434/v1`.
    pub base_url: String,
    /// The model that suits a conversation best.
    ///
    /// That is one that is in memory already (Ollama says so), is not made for code, mathematics or long thought, and
    /// has one to nine billion parameters: enough to hold a conversation, few enough to answer in time. Among equals, the first in the server's list.
    pub model: String,
    /// All models that can chat, as the server lists them.
    pub models: Vec<String>,
}

impl Neighbour {
    /// What it takes to talk to this server.
    pub fn config(&self) -> ChatConfig {
        ChatConfig {
            dialect: self.dialect,
            base_url: Some(self.base_url.clone()),
            model: Some(self.model.clone()),
            ..ChatConfig::default()
        }
    }
}

/// One line for the person who starts the server.
impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = match self.dialect {
            Dialect::Ollama => "Ollama",
            Dialect::Lmstudio => "LM Studio",
            _ => "a llama.cpp server",
        };
        let (count, plural) = match self.models.len() {
            1 => (1, ""),
            count => (count, "s"),
        };
        write!(
            f,
            "{server} at {} with {count} model{plural}; taking {}",
            self.base_url, self.model
        )
    }
}

/// Where to look. Only the loopback address is asked; port 0 is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourPorts {
    /// Ollama, usually 11434.
    pub ollama: u16,
    /// LM Studio, usually 1234.
    pub lm_studio: u16,
    /// llama.cpp, usually 8080.
    pub llama_cpp: u16,
}

impl Default for NeighbourPorts {
    fn default() -> Self {
        Self {
            ollama: 11434,
            lm_studio: 1234,
            llama_cpp: 8080,
        }
    }
}

/// Asks the usual places at the same time for the models they have, for at most 300 ms.
///
/// Returns those that answered with a list of models, Ollama first, then LM Studio, then llama.cpp. Whatever else
/// listens there, or nobody, is not an error.
///
/// # Cancel safety
/// Dropping the future closes the connections.
pub async fn neighbours(ports: NeighbourPorts) -> Vec<Neighbour> {
    // No proxy and no redirect: what is asked here stays on this machine.
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .build();
    let Ok(client) = client else {
        return Vec::new();
    };
    let places = [
        (Dialect::Ollama, ports.ollama),
        (Dialect::Lmstudio, ports.lm_studio),
        (Dialect::Llamacpp, ports.llama_cpp),
    ];
    let asked = places
        .into_iter()
        .filter(|(_, port)| *port != 0)
        .map(|(dialect, port)| ask(&client, dialect, port));
    join_all(asked).await.into_iter().flatten().collect()
}

async fn ask(client: &reqwest::Client, dialect: Dialect, port: u16) -> Option<Neighbour> {
    let origin = format!("http://{}", SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let within = |path: &str| timeout(BUDGET, list(client, format!("{origin}{path}")));
    let (entries, loaded) = match dialect {
        Dialect::Ollama => join(within("/api/tags"), within("/api/ps")).await,
        _ => (within("/v1/models").await, Ok(None)),
    };
    let entries = entries.ok()??;
    // Knowing what is in memory is a bonus, which older versions cannot give.
    let loaded = loaded.ok().flatten().unwrap_or_default();
    let chat: Vec<&Entry> = entries.iter().filter(|entry| entry.chats()).collect();
    let is_loaded = |entry: &Entry| loaded.iter().any(|other| other.label() == entry.label());
    let best = chat
        .iter()
        .min_by_key(|entry| (!is_loaded(entry), entry.is_specialist(), entry.misfit()))?;
    Some(Neighbour {
        dialect,
        base_url: format!("{origin}/v1"),
        model: best.label().to_owned(),
        models: chat.iter().map(|entry| entry.label().to_owned()).collect(),
    })
}

async fn list(client: &reqwest::Client, url: String) -> Option<Vec<Entry>> {
    let mut response = client.get(url).send().await.ok()?;
    if !response.status().is_success() {
        return None;
    }
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.ok()? {
        body.extend_from_slice(&piece);
        if body.len() > MAX_BYTES {
            return None;
        }
    }
    let list: List = serde_json::from_slice(&body).ok()?;
    list.data.or(list.models)
}

/// What all of them answer: Ollama has `models` with names, the others `data` with ids, and llama.cpp has both.
#[derive(Deserialize)]
struct List {
    data: Option<Vec<Entry>>,
    models: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    id: Option<String>,
    name: Option<String>,
    details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    family: Option<String>,
    parameter_size: Option<String>,
}

impl Entry {
    fn label(&self) -> &str {
        let name = self.id.as_deref().or(self.name.as_deref());
        name.unwrap_or_default()
    }

    fn says(&self, words: &[&str]) -> bool {
        let name = self.label().to_ascii_lowercase();
        words.iter().any(|word| name.contains(word))
    }

    /// Models that make vectors, ranks or transcripts stand in the same lists.
    fn chats(&self) -> bool {
        let family = self
            .details
            .as_ref()
            .and_then(|details| details.family.as_deref());
        let other = family.is_some_and(|family| family.contains("bert"))
            || self.says(&["embed", "rerank", "whisper", "minilm", "bge-"]);
        !other && !self.label().is_empty()
    }

    /// Made for something else than talking, or thinks at length before it says a word.
    fn is_specialist(&self) -> bool {
        self.says(&[
            "code", "coder", "math", "guard", "-r1", "qwq", "reason", "think", "ocr",
        ])
    }

    /// How far the size is from what a conversation wants; 0 is best.
    fn misfit(&self) -> u8 {
        match self.billions() {
            Some(size) if (1.0..=9.0).contains(&size) => 0,
            Some(size) if size <= 15.0 && size > 1.0 => 1,
            None => 1,
            Some(size) if size < 1.0 => 2,
            Some(_) => 3,
        }
    }

    /// Billions of parameters, as the server or the name says.
    fn billions(&self) -> Option<f32> {
        let parse = |word: &str| {
            let word = word.to_ascii_lowercase();
            match (word.strip_suffix('b'), word.strip_suffix('m')) {
                (Some(billions), _) => billions.parse::<f32>().ok(),
                (_, Some(millions)) => millions.parse::<f32>().ok().map(|size| size / 1000.0),
                _ => None,
            }
        };
        let told = self
            .details
            .as_ref()
            .and_then(|details| details.parameter_size.as_deref());
        told.and_then(parse).or_else(|| {
            let mut words = self
                .label()
                .split(|c: char| !c.is_alphanumeric() && c != '.');
            words.find_map(parse)
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A server that answers by path; whoever asks for anything else waits for ever.
    async fn server(answers: &'static [(&'static str, &'static str)]) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let length = socket.read(&mut request).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..length]);
                let asked = |path: &str| request.starts_with(&format!("GET {path} "));
                if let Some((_, body)) = answers.iter().find(|(path, _)| asked(path)) {
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                        body.len()
                    );
                    let _ = socket.write_all(answer.as_bytes()).await;
                }
                open.push(socket);
            }
        });
        port
    }

    const TAGS: &str = r#"{"models":[
        {"name":"qwen2.5-coder:7b"},
        {"name":"llama3.2:latest","details":{"family":"llama","parameter_size":"3.2B"}},
        {"name":"all-minilm","details":{"family":"bert"}},
        {"name":"mistral:7b"}]}"#;

    #[tokio::test]
    async fn servers_with_models_are_found() {
        let ports = NeighbourPorts {
            ollama: server(&[("/api/tags", TAGS)]).await,
            lm_studio: server(&[(
                "/v1/models",
                r#"{"object":"list","data":[{"id":"text-embedding-nomic"},{"id":"qwen"}]}"#,
            )])
            .await,
            llama_cpp: server(&[(
                "/v1/models",
                r#"{"models":[{"name":"a.gguf"}],"data":[{"id":"a.gguf"}]}"#,
            )])
            .await,
        };
        let found = neighbours(ports).await;
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        let expected = [
            format!(
                "Ollama at http://127.0.0.1:{}/v1 with 3 models; taking llama3.2:latest",
                ports.ollama
            ),
            format!(
                "LM Studio at http://127.0.0.1:{}/v1 with 1 model; taking qwen",
                ports.lm_studio
            ),
            format!(
                "a llama.cpp server at http://127.0.0.1:{}/v1 with 1 model; taking a.gguf",
                ports.llama_cpp
            ),
        ];
        assert_eq!(lines, expected);
        let config = found[0].config();
        assert_eq!(config.model.as_deref(), Some("llama3.2:latest"));
        assert_eq!(config.base_url.as_ref(), Some(&found[0].base_url));
    }

    #[tokio::test]
    async fn what_is_in_memory_comes_first() {
        let port = server(&[
            ("/api/tags", TAGS),
            ("/api/ps", r#"{"models":[{"name":"mistral:7b"}]}"#),
        ])
        .await;
        let ports = NeighbourPorts {
            ollama: port,
            lm_studio: 0,
            llama_cpp: 0,
        };
        assert_eq!(neighbours(ports).await[0].model, "mistral:7b");
    }

    #[tokio::test]
    async fn silence_and_absence_are_nobody() {
        let ports = NeighbourPorts {
            ollama: server(&[]).await,
            lm_studio: server(&[("/v1/models", "<html>")]).await,
            llama_cpp: server(&[("/v1/models", r#"{"data":[]}"#)]).await,
        };
        assert_eq!(neighbours(ports).await, []);
    }

    #[test]
    fn the_model_that_talks_best_is_taken() {
        let size = |name: &str| {
            let entry = Entry {
                id: Some(name.to_owned()),
                name: None,
                details: None,
            };
            (entry.is_specialist(), entry.misfit())
        };
        let table = [
            ("qwen3:4b", (false, 0)),
            ("Meta-Llama-3.1-8B-Instruct-GGUF", (false, 0)),
            ("gemma3:12b-it-qat", (false, 1)),
            ("phi4", (false, 1)),
            ("smollm2:135m", (false, 2)),
            ("llama3.3:70b", (false, 3)),
            ("deepseek-r1:8b", (true, 0)),
        ];
        for (name, expected) in table {
            assert_eq!(size(name), expected, "{name}");
        }
    }
}
