//! Rows of the tables: groups of leaves with the same things around them.

use serde_json::{Value, json};

use super::schema::{Leaf, place, without};
use super::walk::Row;

/// Leaves with two values each, and what is around them.
#[derive(Clone, Debug, Default)]
pub struct Group {
    rows: Vec<(String, Values)>,
    with: Value,
}

#[derive(Clone, Debug)]
enum Values {
    /// The first two that the schema has.
    Auto,
    Two(Value, Value),
    /// None, with nothing of the group around it, then this one.
    FromAbsent(Value),
    /// None, then this one.
    FromMissing(Value),
}

/// Begins a group with a leaf, whose values follow.
pub fn one(leaf: impl Into<String>) -> Group {
    Group {
        rows: vec![(leaf.into(), Values::Auto)],
        with: json!({}),
    }
}

/// The name of a second interface.
pub fn two(interface: &str) -> String {
    interface.replace('0', "1")
}

impl Group {
    pub fn auto(self) -> Group {
        self
    }
    pub fn to(mut self, first: impl Into<Value>, second: impl Into<Value>) -> Group {
        self.rows[0].1 = Values::Two(first.into(), second.into());
        self
    }
    pub fn after_absence(mut self, value: impl Into<Value>) -> Group {
        self.rows[0].1 = Values::FromAbsent(value.into());
        self
    }
    pub fn after_missing(mut self, value: impl Into<Value>) -> Group {
        self.rows[0].1 = Values::FromMissing(value.into());
        self
    }
    pub fn one(mut self, leaf: impl Into<String>, first: impl Into<Value>, second: impl Into<Value>) -> Group {
        self.rows.push((leaf.into(), Values::Two(first.into(), second.into())));
        self
    }
    pub fn one_after_absence(mut self, leaf: impl Into<String>, value: impl Into<Value>) -> Group {
        self.rows.push((leaf.into(), Values::FromAbsent(value.into())));
        self
    }
    pub fn one_after_missing(mut self, leaf: impl Into<String>, value: impl Into<Value>) -> Group {
        self.rows.push((leaf.into(), Values::FromMissing(value.into())));
        self
    }
    pub fn auto_of(mut self, leaf: impl Into<String>) -> Group {
        self.rows.push((leaf.into(), Values::Auto));
        self
    }
    pub fn with(mut self, around: Value) -> Group {
        merge(&mut self.with, &around);
        self
    }

    /// What the group has around its leaves.
    pub fn surroundings(&self) -> &Value {
        &self.with
    }

    /// The leaves of the group that there are, with the values that they are given.
    pub fn values(&self, leaves: &[Leaf]) -> Vec<(Leaf, Vec<Value>)> {
        let known = |name: &String| leaves.iter().find(|leaf| leaf.path == *name);
        let rows = self.rows.iter().filter_map(|(name, values)| {
            let leaf = known(name)?;
            let values = match values {
                Values::Auto => choose(leaf).to_vec(),
                Values::Two(a, b) => vec![a.clone(), b.clone()],
                Values::FromAbsent(b) | Values::FromMissing(b) => vec![b.clone()],
            };
            Some((leaf.clone(), values))
        });
        rows.collect()
    }

    /// What is around the group's leaves.
    pub fn around(&self, base: &Value) -> Value {
        let mut spec = base.clone();
        merge(&mut spec, &self.with);
        spec
    }

    /// The rows of the group for the leaves that there are.
    pub fn rows(&self, base: &Value, leaves: &[Leaf]) -> Vec<Row> {
        let mut rows = Vec::new();
        for (name, values) in &self.rows {
            let Some(leaf) = leaves.iter().find(|leaf| leaf.path == *name) else {
                continue;
            };
            let spec = self.around(base);
            let (first, second) = match values {
                Values::Auto => {
                    let [a, b] = choose(leaf);
                    (with(&spec, name, &a), b)
                }
                Values::Two(a, b) => (with(&spec, name, a), b.clone()),
                Values::FromAbsent(b) => (base.clone(), b.clone()),
                Values::FromMissing(b) => (without(&spec, name), b.clone()),
            };
            let second = with(&spec, name, &second);
            rows.push(Row {
                leaf: name.clone(),
                first,
                dropped: without(&second, name),
                second,
            });
        }
        rows
    }
}

fn with(spec: &Value, leaf: &str, value: &Value) -> Value {
    let mut spec = spec.clone();
    *place(&mut spec, leaf) = value.clone();
    spec
}

/// Two values that the schema names.
fn choose(leaf: &Leaf) -> [Value; 2] {
    match leaf.schema["enum"].as_array() {
        Some(words) => [words[0].clone(), words[1].clone()],
        None => {
            assert_eq!(
                leaf.schema["type"], "boolean",
                "{} needs two values in its table",
                leaf.path
            );
            [json!(false), json!(true)]
        }
    }
}

/// Puts one object's fields over another's; null takes a field away.
pub fn merge(to: &mut Value, from: &Value) {
    match (to, from) {
        (Value::Object(to), Value::Object(from)) => {
            for (key, value) in from {
                if value.is_null() {
                    to.remove(key);
                } else {
                    merge(to.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (to, from) => *to = from.clone(),
    }
}
