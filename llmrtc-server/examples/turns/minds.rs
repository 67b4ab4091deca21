//! The models, where they are installed.

use std::path::Path;

use crate::listener::Minds;

/// What is below `models`, the folder that `llmrtc models path` prints. Without one there are no judges.
pub(crate) fn load(models: Option<&Path>) -> anyhow::Result<Minds> {
    let Some(_folder) = models else {
        return Ok(Minds::default());
    };
    Ok(Minds::default())
}
