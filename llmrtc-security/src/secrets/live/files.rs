use std::path::Path;
#[cfg(feature = "watch")]
use std::sync::Arc;

/// Tells of changes near a file. Its folder is watched, because Kubernetes and careful editors replace a file, or a link
/// on the way to it, instead of writing into it.
pub(super) struct FileEvents {
    #[cfg(feature = "watch")]
    changed: Arc<tokio::sync::Notify>,
    #[cfg(feature = "watch")]
    _watcher: notify::RecommendedWatcher,
}

impl FileEvents {
    /// `None` without a file, without the feature `watch`, or when the system cannot watch the folder.
    #[cfg(feature = "watch")]
    pub(super) fn watch(path: Option<&Path>) -> Option<Self> {
        use notify::{RecursiveMode, Watcher};

        let folder = match path?.parent() {
            Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
            folder => folder?,
        };
        let changed = Arc::new(tokio::sync::Notify::new());
        let signal = Arc::clone(&changed);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Our own reading is an access, and must not lead to another one. An error may hide a change.
            if event.map_or(true, |event| !event.kind.is_access()) {
                signal.notify_one();
            }
        });
        let watching = watcher.and_then(|mut watcher| {
            watcher.watch(folder, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match watching {
            Ok(watcher) => Some(Self {
                changed,
                _watcher: watcher,
            }),
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "secret files are polled: the folder cannot be watched");
                None
            }
        }
    }

    #[cfg(not(feature = "watch"))]
    pub(super) fn watch(_: Option<&Path>) -> Option<Self> {
        None
    }

    /// Waits for the next change; several become one.
    pub(super) async fn changed(&mut self) {
        #[cfg(feature = "watch")]
        self.changed.notified().await;
        #[cfg(not(feature = "watch"))]
        std::future::pending::<()>().await;
    }
}
