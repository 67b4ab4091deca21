//! Real servers for tests: started on free ports with data in a temporary folder, killed on drop.

mod postgres;
mod redis;

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::net::TcpStream;

pub use self::{postgres::PostgresServer, redis::RedisServer};

/// How long a server may take to start on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("loopback has a free port")
        .port()
}

/// Finds a program on the search path or where Debian keeps versioned ones.
fn find_program(name: &str, beside: &[&str]) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(beside.iter().map(PathBuf::from))
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: `cargo xtask test` installs it"))
}

/// Waits until something listens on the port.
async fn wait_for_port(port: u16, log: &Path) {
    let deadline = tokio::time::Instant::now() + START_TIMEOUT;
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "no server on port {port}: {}",
            std::fs::read_to_string(log).unwrap_or_default()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
