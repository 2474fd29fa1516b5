//! What tenants ask for: networks, endpoints, target sets, requirements.
//!
//! [`Networks`] is the machine that holds them; every change is one record, durable before it is
//! answered, and is published whole. [`Catalog`] is the view that everybody else builds from what
//! is published: the decision node looks up requirements in it, the node what to steer to itself.
//! [`validate`] is all that can be wrong with an object, each with its field and its mending.

pub mod catalog;
mod drain;
mod health;
mod index;
mod networks;
mod requirement;
pub mod spec;
pub mod steering;
pub mod validate;

pub use catalog::Catalog;
pub use health::{Probed, Standing};
pub use networks::{Command, Effect, Event, Networks};
pub use steering::{Rule, Steering, TargetEnd};
pub use validate::{Limits, Problem, Refusal};
