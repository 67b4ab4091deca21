//! Tests of the redactor as a whole.
