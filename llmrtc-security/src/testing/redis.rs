use std::{fs::File, process::Stdio};

use llmrtc_core::redact::Secret;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{find_program, free_port, wait_for_port};

/// A Redis of one's own, without persistence.
#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    folder: TempDir,
    process: Child,
}

impl RedisServer {
    /// Starts one and waits until it answers.
    ///
    /// # Panics
    /// When Redis is not installed or does not start.
    pub async fn start() -> Self {
        let (folder, port) = (TempDir::new().expect("a temporary folder"), free_port());
        let process = spawn(&folder, port);
        wait_for_port(port, &folder.path().join("log")).await;
        Self {
            port,
            folder,
            process,
        }
    }

    /// Where it listens.
    pub fn url(&self) -> Secret {
        Secret::new(format!("redis://127.0.0.1:{}/", self.port))
    }

    /// The port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills it (`kill -9`). The port stays reserved for [`restart`](Self::restart) by nobody else asking for it.
    ///
    /// # Panics
    /// When the process cannot be killed.
    pub async fn kill(&mut self) {
        self.process
            .kill()
            .await
            .expect("our own child can be killed");
    }

    /// Starts it again on the same port, empty.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(&mut self) {
        self.process = spawn(&self.folder, self.port);
        wait_for_port(self.port, &self.folder.path().join("log")).await;
    }
}

fn spawn(folder: &TempDir, port: u16) -> Child {
    let log = File::create(folder.path().join("log")).expect("a file in our own folder");
    let port = port.to_string();
    Command::new(find_program("redis-server", &[]))
        .args([
            "--bind",
            "127.0.0.1",
            "--port",
            &port,
            "--save",
            "",
            "--appendonly",
            "no",
        ])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("redis-server starts")
}
