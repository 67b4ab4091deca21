//! Speech recognition with Moonshine.
