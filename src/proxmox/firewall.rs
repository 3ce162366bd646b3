//! A guest's firewall: options and rules (facts D.12).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::pve::GuestRef;

use super::lenient::{boolean, number, opt_text, text, text_map};
use super::{ApiCall, Client, Result};

/// GET …/firewall/options.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FirewallOptions {
    /// Goes with a write that was decided on this read.
    pub digest: Option<String>,
    /// Every option as text.
    pub options: BTreeMap<String, String>,
}

/// One rule. Its position is its only identity.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct FirewallRule {
    /// Position in the list.
    #[serde(default, deserialize_with = "number")]
    pub pos: u32,
    /// `in`, `out`, `forward`, `group`.
    #[serde(rename = "type", default, deserialize_with = "text")]
    pub kind: String,
    /// `ACCEPT`, `DROP`, `REJECT` or a group's name.
    #[serde(default, deserialize_with = "text")]
    pub action: String,
    /// Whether it is in force; a new rule is not, unless asked for.
    #[serde(default, deserialize_with = "boolean")]
    pub enable: bool,
    /// A predefined service.
    #[serde(rename = "macro", default, deserialize_with = "opt_text")]
    pub macro_name: Option<String>,
    /// `net0`, …
    #[serde(default, deserialize_with = "opt_text")]
    pub iface: Option<String>,
    /// Source addresses.
    #[serde(default, deserialize_with = "opt_text")]
    pub source: Option<String>,
    /// Destination addresses.
    #[serde(default, deserialize_with = "opt_text")]
    pub dest: Option<String>,
    /// Protocol.
    #[serde(default, deserialize_with = "opt_text")]
    pub proto: Option<String>,
    /// Destination ports.
    #[serde(default, deserialize_with = "opt_text")]
    pub dport: Option<String>,
    /// Source ports.
    #[serde(default, deserialize_with = "opt_text")]
    pub sport: Option<String>,
    /// ICMP type.
    #[serde(rename = "icmp-type", default, deserialize_with = "opt_text")]
    pub icmp_type: Option<String>,
    /// Log level.
    #[serde(default, deserialize_with = "opt_text")]
    pub log: Option<String>,
    /// Comment; Phoenix's mark is in it.
    #[serde(default, deserialize_with = "opt_text")]
    pub comment: Option<String>,
    /// Digest of the whole list.
    #[serde(default, deserialize_with = "opt_text")]
    pub digest: Option<String>,
}

impl Client {
    /// The options of a guest's firewall.
    pub async fn firewall_options(&self, at: &GuestRef) -> Result<FirewallOptions> {
        let map: Map<String, Value> = self.fetch(&ApiCall::get(at.path_of(&["firewall", "options"]))).await?;
        let mut options = text_map(map);
        Ok(FirewallOptions {
            digest: options.remove("digest"),
            options,
        })
    }

    /// The rules of a guest's firewall, in order.
    pub async fn firewall_rules(&self, at: &GuestRef) -> Result<Vec<FirewallRule>> {
        let mut rules: Vec<FirewallRule> = self.fetch(&ApiCall::get(at.path_of(&["firewall", "rules"]))).await?;
        rules.sort_by_key(|rule| rule.pos);
        Ok(rules)
    }
}
