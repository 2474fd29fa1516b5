//! .
pub mod machine;
pub mod decision;
pub mod flow;
pub mod network;
pub mod driver;
pub mod journal;
pub mod recovery;
pub mod seam;
pub mod shell;
