//! From nodes to typed values, with every mistake noted and none hiding another.
//!
//! A [`Field`] is a node with its path. Each reader returns `None` after it has noted what is
//! wrong, so the caller reads all its fields first and builds its value last.

use super::node::{Key, Node, Scalar, Value};
use super::problem::{Position, Problems, did_you_mean, one_of};
use ipnet::IpNet;
use penstock_event_schema::flow::Protocol;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Field<'n> {
    /// The value.
    pub node: &'n Node,
    /// Its path from the top of the document; empty at the top.
    pub path: String,
    /// The place to point at: that of the value, or of its key when there is no value.
    pub position: Position,
}

impl<'n> Field<'n> {
    /// The top of a document.
    pub fn root(node: &'n Node) -> Field<'n> {
        Field { node, path: String::new(), position: node.position }
    }

    /// Notes that this field is wrong.
    pub fn wrong(
        &self,
        problems: &mut Problems,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        problems.add(self.position, &self.path, message, fix);
    }

    fn expected(&self, problems: &mut Problems, what: &str, fix: &str) {
        self.wrong(problems, format!("must be {what}, not {}", self.node.describe()), fix);
    }

    /// The fields of a mapping.
    pub fn fields(&self, problems: &mut Problems) -> Option<Fields<'n>> {
        let Value::Map(entries) = &self.node.value else {
            self.expected(problems, "a mapping", "write `name: value` lines below it, indented");
            return None;
        };
        Some(Fields {
            entries,
            path: self.path.clone(),
            position: self.position,
            known: Vec::new(),
        })
    }

    /// The items of a list.
    pub fn items(&self, problems: &mut Problems) -> Option<Vec<Field<'n>>> {
        let Value::List(items) = &self.node.value else {
            self.expected(
                problems,
                "a list",
                "write each item below it as `- item`, or `[item, item]`",
            );
            return None;
        };
        Some(
            items
                .iter()
                .enumerate()
                .map(|(index, node)| Field {
                    node,
                    path: format!("{}[{index}]", self.path),
                    position: node.position,
                })
                .collect(),
        )
    }

    /// Every item of a list by `read`; none when one of them is wrong.
    pub fn list<T>(
        &self,
        problems: &mut Problems,
        mut read: impl FnMut(&Field<'n>, &mut Problems) -> Option<T>,
    ) -> Option<Vec<T>> {
        let items = self.items(problems)?;
        let read: Vec<Option<T>> = items.iter().map(|item| read(item, problems)).collect();
        read.into_iter().collect()
    }

    /// Like [`Field::list`], and at least one item.
    pub fn list_of_some<T>(
        &self,
        problems: &mut Problems,
        what: &str,
        read: impl FnMut(&Field<'n>, &mut Problems) -> Option<T>,
    ) -> Option<Vec<T>> {
        let list = self.list(problems, read)?;
        if list.is_empty() {
            self.wrong(problems, "is empty", format!("name at least one {what}"));
            return None;
        }
        Some(list)
    }

    /// A text. Numbers and booleans are not taken for texts.
    pub fn text(&self, problems: &mut Problems) -> Option<&'n str> {
        match &self.node.value {
            Value::Scalar(Scalar::Text(text)) => Some(text),
            Value::Scalar(Scalar::Number(text)) => {
                self.expected(problems, "a text", &format!("write it in quotes: \"{text}\""));
                None
            }
            Value::Scalar(Scalar::Boolean(value)) => {
                self.expected(problems, "a text", &format!("write it in quotes: \"{value}\""));
                None
            }
            _ => {
                self.expected(problems, "a text", "write a word or a text in quotes");
                None
            }
        }
    }

    /// The name of an object: what Kubernetes takes for one (RFC 1123 label, 63 characters).
    pub fn name(&self, problems: &mut Problems) -> Option<String> {
        let text = self.text(problems)?;
        let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let fits = !text.is_empty()
            && text.len() <= 63
            && text.chars().all(|c| edge(c) || c == '-')
            && text.starts_with(edge)
            && text.ends_with(edge);
        if !fits {
            self.wrong(
                problems,
                format!("`{text}` is no name"),
                "use up to 63 of a-z, 0-9 and `-`, with a letter or digit first and last",
            );
            return None;
        }
        Some(text.to_owned())
    }

    /// A boolean.
    pub fn boolean(&self, problems: &mut Problems) -> Option<bool> {
        if let Value::Scalar(Scalar::Boolean(value)) = self.node.value {
            return Some(value);
        }
        self.expected(problems, "true or false", "write `true` or `false` without quotes");
        None
    }

    /// A whole number from `low` to `high`.
    pub fn integer(&self, low: u64, high: u64, problems: &mut Problems) -> Option<u64> {
        let range = format!("a whole number from {low} to {high}");
        let Value::Scalar(Scalar::Number(text)) = &self.node.value else {
            let fix = match &self.node.value {
                Value::Scalar(Scalar::Text(text)) if text.parse::<u64>().is_ok() => {
                    format!("write it without quotes: {text}")
                }
                _ => "write digits".into(),
            };
            self.expected(problems, &range, &fix);
            return None;
        };
        let number = text
            .strip_prefix("0x")
            .map_or_else(|| text.parse::<u64>(), |digits| u64::from_str_radix(digits, 16));
        match number {
            Ok(number) if (low..=high).contains(&number) => Some(number),
            _ => {
                self.expected(problems, &range, "choose one in that range");
                None
            }
        }
    }

    /// A word out of a closed list.
    pub fn choice<T: Copy>(&self, choices: &[(&str, T)], problems: &mut Problems) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let Value::Scalar(Scalar::Text(text)) = &self.node.value else {
            self.expected(problems, &one_of(&names), "write one of these words");
            return None;
        };
        if let Some((_, value)) = choices.iter().find(|(name, _)| name == text) {
            return Some(*value);
        }
        let fix = match did_you_mean(text, &names) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "write one of these words".into(),
        };
        self.wrong(problems, format!("must be {}, not `{text}`", one_of(&names)), fix);
        None
    }

    /// A unicast address of a host.
    pub fn address(&self, problems: &mut Problems) -> Option<IpAddr> {
        let text = self.text(problems)?;
        let Ok(address) = text.parse::<IpAddr>() else {
            let fix = match text.parse::<IpNet>() {
                Ok(prefix) => format!("write a single address, for example {}", prefix.addr()),
                Err(_) => "write it like 10.2.0.11 or \"fd00::11\"".into(),
            };
            self.wrong(problems, format!("`{text}` is no IP address"), fix);
            return None;
        };
        if let Some(kind) = never_a_host(address) {
            self.wrong(
                problems,
                format!("`{text}` is {kind}"),
                "write a unicast address that hosts can be reached at",
            );
            return None;
        }
        Some(address)
    }

    /// An address range; a bare address means that address alone.
    pub fn prefix(&self, problems: &mut Problems) -> Option<IpNet> {
        let text = self.text(problems)?;
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(IpNet::from(address));
        }
        let Ok(prefix) = text.parse::<IpNet>() else {
            self.wrong(
                problems,
                format!("`{text}` is no address range"),
                "write it like 10.2.0.0/16 or \"fd00:2::/64\"",
            );
            return None;
        };
        if prefix.trunc() != prefix {
            let (bits, whole) = (prefix.prefix_len(), prefix.trunc());
            self.wrong(
                problems,
                format!("`{text}` has bits set behind its first {bits}"),
                format!("write {whole}, or {} for the one address", prefix.addr()),
            );
            return None;
        }
        Some(prefix)
    }

    /// A protocol by name or number.
    pub fn protocol(&self, problems: &mut Problems) -> Option<Protocol> {
        let text = match &self.node.value {
            Value::Scalar(Scalar::Text(text) | Scalar::Number(text)) => text,
            _ => {
                self.expected(
                    problems,
                    "a protocol",
                    "write tcp, udp, icmp, icmp6 or a number up to 255",
                );
                return None;
            }
        };
        let protocol = Protocol::from_str(text).ok();
        if protocol.is_none() {
            let fix = match did_you_mean(text, &["tcp", "udp", "icmp", "icmp6"]) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => "write tcp, udp, icmp, icmp6 or a number up to 255".into(),
            };
            self.wrong(problems, format!("`{text}` is no protocol"), fix);
        }
        protocol
    }

    /// A port, 1 to 65535.
    pub fn port(&self, problems: &mut Problems) -> Option<u16> {
        self.integer(1, 65_535, problems).map(|port| port as u16)
    }

    /// Ports as `FIRST-LAST`, or one port.
    pub fn port_range(&self, problems: &mut Problems) -> Option<(u16, u16)> {
        if let Value::Scalar(Scalar::Number(_)) = self.node.value {
            return self.port(problems).map(|port| (port, port));
        }
        let text = self.text(problems)?;
        let ends = text.split_once('-').and_then(|(first, last)| {
            Some((first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?))
        });
        match ends {
            Some((first, last)) if first >= 1 && first <= last => Some((first, last)),
            Some((first, last)) if first > last && last >= 1 => {
                let message = format!("`{text}` ends before it begins");
                self.wrong(problems, message, format!("write {last}-{first}"));
                None
            }
            _ => {
                let message = format!("`{text}` is no port range");
                self.wrong(
                    problems,
                    message,
                    "write FIRST-LAST, each from 1 to 65535, for example 5000-5010",
                );
                None
            }
        }
    }
}

/// What an address is that no host can have.
fn never_a_host(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_unspecified() => Some("the unspecified address"),
        _ if address.is_loopback() => Some("a loopback address"),
        _ if address.is_multicast() => Some("a multicast address"),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some("the broadcast address"),
        IpAddr::V4(v4) if v4.is_link_local() => Some("a link-local address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
        IpAddr::V6(v6) if Ipv6Addr::to_ipv4_mapped(&v6).is_some() => {
            Some("an IPv4 address in IPv6 form")
        }
        _ => None,
    }
}

/// The fields of a mapping, read by name; [`Fields::finish`] notes those that nobody read.
#[derive(Clone, Debug)]
pub struct Fields<'n> {
    entries: &'n [(Key, Node)],
    path: String,
    position: Position,
    known: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// The field `name` when it is there and not null.
    pub fn optional(&mut self, name: &'static str) -> Option<Field<'n>> {
        self.known.push(name);
        let (key, node) = self.entries.iter().find(|(key, _)| key.name == name)?;
        (!node.is_null()).then(|| self.field(key, node))
    }

    /// The field `name`; noted when it is missing. `example` is what to write.
    pub fn required(
        &mut self,
        name: &'static str,
        example: &str,
        problems: &mut Problems,
    ) -> Option<Field<'n>> {
        let field = self.optional(name);
        if field.is_none() {
            let written = self.entries.iter().find(|(key, _)| key.name == name);
            let (position, message) = match written {
                Some((key, _)) => (key.position, "is empty"),
                None => (self.position, "is missing"),
            };
            problems.add(position, join(&self.path, name), message, format!("write `{example}`"));
        }
        field
    }

    /// Notes fields that are not known and fields that stand there twice.
    pub fn finish(self, problems: &mut Problems) {
        for (index, (key, _)) in self.entries.iter().enumerate() {
            let path = join(&self.path, &key.name);
            if self.entries[..index].iter().any(|(other, _)| other.name == key.name) {
                problems.add(key.position, path, "stands here twice", "keep one of the two");
            } else if !self.known.contains(&key.name.as_str()) {
                let fix = match did_you_mean(&key.name, &self.known) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("known here: {}", self.known.join(", ")),
                };
                problems.add(key.position, path, "is not a known field", fix);
            }
        }
    }

    /// The fields that are there, for mappings whose keys say which variant they are.
    pub fn present(&self) -> Vec<&'n str> {
        self.entries.iter().map(|(key, _)| key.name.as_str()).collect()
    }

    /// Notes that the mapping as a whole is wrong.
    pub fn wrong(
        &self,
        problems: &mut Problems,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        problems.add(self.position, &self.path, message, fix);
    }

    fn field(&self, key: &'n Key, node: &'n Node) -> Field<'n> {
        Field { node, path: join(&self.path, &key.name), position: key.place_of(node) }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
