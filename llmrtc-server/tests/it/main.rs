//! The server and the command as their users meet them.

mod command;
