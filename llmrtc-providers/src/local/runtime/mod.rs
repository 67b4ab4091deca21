//! ONNX Runtime, loaded at run time from an explicit path.
