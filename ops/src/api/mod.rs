//! HTTP/JSON over a Unix socket in the run directory: what the command line talks to.
//!
//! | route | what |
//! |---|---|
//! | `GET /v1/{networks,endpoints,targetsets,requirements}[/{name}]` | resources with their `generation` |
//! | `POST /v1/apply[?dryRun=true]` | a list of resources, checked as a whole, then one by one |
//! | `DELETE /v1/{kind}/{name}` | removes one |
//! | `GET /v1/flows?limit&requirement&network&target&address&protocol` | live flows |
//! | `GET /v1/explain?flow&network&recent` | the whole story of a flow |
//! | `GET /v1/directives?limit` | what the shards have cached |
//! | `GET /v1/node` | how the node is |
//! | `POST /v1/invalidate` | makes the shards forget |
//! | `GET /metrics` | Prometheus text |
//! | `GET /healthz`, `GET /readyz` | for supervisors |
//!
//! An error is `{"error": {"code", "message", "fix"}}` with a fitting status.

mod apply;
pub mod plane;
mod routes;
pub mod server;

pub use apply::{ApplyReply, ApplyResult};
pub use routes::{ErrorBody, ErrorDetail, router};
