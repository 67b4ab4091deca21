//! Servers with larger models that already run on this machine.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use futures_util::future::join_all;
use serde::Deserialize;
use tokio::time::timeout;

use crate::openai::Dialect;

/// All questions together. A server on the same machine that takes longer is busy with something else.
const BUDGET: Duration = Duration::from_millis(300);
/// Longest list of models that is read.
const MAX_BYTES: usize = 1 << 20;

/// A server that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Which server it is: what [`ChatConfig`](crate::openai::ChatConfig) should be told.
    pub dialect: Dialect,
    /// The address that `chat/completions` is appended to, such as `http://127.0.0.1:11434/v1`.
    pub base_url: String,
    /// The models that can chat, as the server lists them; at least one.
    pub models: Vec<String>,
}

/// Where to look. Only loopback addresses are asked.
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
/// listens there, or nobody, is not an error. Port 0 is not asked.
///
/// # Cancel safety
/// Dropping the future closes the connections.
pub async fn neighbours(ports: NeighbourPorts) -> Vec<Neighbour> {
    // No proxy and no redirect: what is asked here stays on this machine.
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(BUDGET)
        .build();
    let Ok(client) = client else {
        return Vec::new();
    };
    let places = [
        (Dialect::Ollama, ports.ollama, "api/tags"),
        (Dialect::Lmstudio, ports.lm_studio, "v1/models"),
        (Dialect::Llamacpp, ports.llama_cpp, "v1/models"),
    ];
    let asked = places
        .into_iter()
        .filter(|(_, port, _)| *port != 0)
        .map(|(dialect, port, path)| {
            let origin = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let client = &client;
            async move {
                let ask = ask(client, format!("http://{origin}/{path}"));
                let models = timeout(BUDGET, ask).await.ok()??;
                let base_url = format!("http://{origin}/v1");
                (!models.is_empty()).then_some(Neighbour {
                    dialect,
                    base_url,
                    models,
                })
            }
        });
    join_all(asked).await.into_iter().flatten().collect()
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
}

impl Entry {
    /// The model's name, if it can chat. Embedding models stand in the same lists.
    fn chat(self) -> Option<String> {
        let family = self.details.and_then(|details| details.family);
        let embeds = family.is_some_and(|family| family.contains("bert"));
        let name = self.id.or(self.name)?;
        (!embeds && !name.contains("embed")).then_some(name)
    }
}

async fn ask(client: &reqwest::Client, url: String) -> Option<Vec<String>> {
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
    let entries = list.data.or(list.models)?;
    Some(entries.into_iter().filter_map(Entry::chat).collect())
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A server that gives every connection the same answer; `None` takes the request and stays silent.
    async fn server(body: Option<&'static str>) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let _ = socket.read(&mut request).await;
                if let Some(body) = body {
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

    #[tokio::test]
    async fn servers_with_models_are_found() {
        let tags = r#"{"models":[{"name":"llama3.2:latest","details":{"family":"llama"}},
            {"name":"all-minilm","details":{"family":"bert"}}]}"#;
        let list = r#"{"object":"list","data":[{"id":"qwen","object":"model"},{"id":"text-embedding-nomic"}]}"#;
        let both = r#"{"models":[{"name":"a.gguf"}],"data":[{"id":"a.gguf"}]}"#;
        let ports = NeighbourPorts {
            ollama: server(Some(tags)).await,
            lm_studio: server(Some(list)).await,
            llama_cpp: server(Some(both)).await,
        };
        let found = neighbours(ports).await;
        let expected = [
            (Dialect::Ollama, ports.ollama, "llama3.2:latest"),
            (Dialect::Lmstudio, ports.lm_studio, "qwen"),
            (Dialect::Llamacpp, ports.llama_cpp, "a.gguf"),
        ];
        let expected = expected.map(|(dialect, port, model)| Neighbour {
            dialect,
            base_url: format!("http://127.0.0.1:{port}/v1"),
            models: vec![model.to_owned()],
        });
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn silence_and_absence_are_nobody() {
        let ports = NeighbourPorts {
            ollama: server(None).await,
            lm_studio: server(Some("<html>")).await,
            llama_cpp: server(Some(r#"{"data":[]}"#)).await,
        };
        assert_eq!(neighbours(ports).await, []);
    }
}
