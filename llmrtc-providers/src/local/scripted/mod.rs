//! A language model that answers by rules from a TOML file.
