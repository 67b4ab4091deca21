//! A language model in this process, read from a GGUF file.
