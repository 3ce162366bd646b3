//! The tree of templates and what was cloned from them, with the dependencies beside it: `phoenix graph`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::{Value, json};

use crate::convert::emit;
use crate::crd::GuestKind;
use crate::desired::{GuestObject, Key};
use crate::pve::Vmid;

/// Levels of the tree that are indented.
const DEEPEST: usize = 40;

/// How a graph is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// An indented tree for people.
    #[default]
    Text,
    /// A Mermaid flowchart, which Git hosts draw in Markdown.
    Mermaid,
    /// Graphviz.
    Dot,
    /// Objects and edges as JSON, for programs.
    Json,
    /// The same as YAML.
    Yaml,
}

/// Objects and how they hang together.
#[derive(Debug, Default)]
pub struct Graph<'a> {
    objects: BTreeMap<&'a Key, &'a GuestObject>,
    /// Children of a template, in order.
    children: BTreeMap<&'a Key, Vec<&'a Key>>,
    /// An object's template, where it is among the objects.
    parent: BTreeMap<&'a Key, &'a Key>,
    /// Names of several namespaces are written with their namespace.
    spread: bool,
}

impl<'a> Graph<'a> {
    /// The graph of some objects. What they refer to and is not among them is named, not followed.
    pub fn new(objects: &'a [GuestObject]) -> Self {
        let objects: BTreeMap<&Key, &GuestObject> = objects.iter().map(|o| (&o.key, o)).collect();
        let spread = objects.keys().map(|k| &k.namespace).collect::<BTreeSet<_>>().len() > 1;
        let mut graph = Graph {
            spread,
            ..Graph::default()
        };
        for (key, object) in &objects {
            let places = object.template_keys();
            if let Some((template, _)) = places.iter().find_map(|key| objects.get_key_value(key)) {
                graph.parent.insert(key, template);
                graph.children.entry(template).or_default().push(key);
            }
        }
        graph.objects = objects;
        graph
    }

    /// The graph as text of a format, with a line break at its end.
    pub fn render(&self, format: Format) -> String {
        match format {
            Format::Text => self.text(),
            Format::Mermaid => self.drawing(&MERMAID),
            Format::Dot => self.drawing(&DOT),
            Format::Json => format!("{:#}\n", self.value()),
            Format::Yaml => emit::yaml(&self.value()),
        }
    }

    /// Objects, and for each the template that it comes from and what it waits for.
    fn value(&self) -> Value {
        let objects = self.objects.iter().map(|(key, object)| {
            json!({
                "kind": key.kind.as_str(),
                "namespace": key.namespace,
                "name": key.name,
                "vmid": vmid(object),
                "phase": object.status.phase,
                "template": self.parent.get(key).map(|template| template.to_string()),
                "dependsOn": Vec::from_iter(object.dependency_keys().map(|key| key.to_string())),
            })
        });
        json!({"objects": Vec::from_iter(objects)})
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut seen = BTreeSet::new();
        // What hangs in a circle of templates has no root: it is shown after the rest, from its first object on.
        let roots = self.objects.keys().filter(|k| !self.parent.contains_key(*k));
        for key in roots.chain(self.objects.keys()) {
            if seen.insert(*key) {
                let _ = writeln!(text, "{}", self.line(key));
                self.branch(key, &mut seen, &mut text);
            }
        }
        text
    }

    /// What was cloned from an object, and from that, and so on: without recursion, as users write chains of any length.
    fn branch(&self, key: &'a Key, seen: &mut BTreeSet<&'a Key>, text: &mut String) {
        let children = |key: &Key| self.children.get(key).map(Vec::as_slice).unwrap_or_default().iter();
        let mut open = vec![(children(key), String::new())];
        loop {
            let depth = open.len();
            let Some((rest, indent)) = open.last_mut() else {
                return;
            };
            let Some(child) = rest.next() else {
                open.pop();
                continue;
            };
            let last = rest.len() == 0;
            let arm = if last { "└── " } else { "├── " };
            if !seen.insert(child) {
                let _ = writeln!(text, "{indent}{arm}{} (a circle: see above)", self.name(child));
                continue;
            }
            let _ = writeln!(text, "{indent}{arm}{}", self.line(child));
            // Deeper ones stand below each other, or a long chain would fill its lines with indentation.
            let inner = match depth {
                n if n > DEEPEST => indent.clone(),
                _ => format!("{indent}{}", if last { "    " } else { "│   " }),
            };
            open.push((children(child), inner));
        }
    }

    /// Everything about one object, on a line.
    fn line(&self, key: &Key) -> String {
        let Some(object) = self.objects.get(key) else {
            return self.name(key);
        };
        let mut line = format!("{} {}", key.kind.as_str(), self.name(key));
        if let Some(vmid) = vmid(object) {
            let _ = write!(line, " ({vmid})");
        }
        if let Some(phase) = &object.status.phase {
            let _ = write!(line, "  {phase}");
        }
        if let Some(name) = object.template_ref().filter(|_| !self.parent.contains_key(key)) {
            let _ = write!(line, "  from {name}, which is not here");
        }
        let needs: Vec<&str> = object.depends_on().iter().map(|d| d.name.as_str()).collect();
        if !needs.is_empty() {
            let _ = write!(line, "  needs {}", needs.join(", "));
        }
        line
    }

    fn name(&self, key: &Key) -> String {
        if self.spread {
            format!("{}/{}", key.namespace, key.name)
        } else {
            key.name.clone()
        }
    }

    fn drawing(&self, style: &Style) -> String {
        let number: BTreeMap<&Key, usize> = self.objects.keys().enumerate().map(|(n, k)| (*k, n)).collect();
        let mut text = format!("{}\n", style.begin);
        for (key, object) in &self.objects {
            let id = vmid(object).map(|v| format!("{}{v}", style.line_break));
            let label = format!("{}{}", self.name(key), id.unwrap_or_default());
            let (open, close) = (style.node)(key.kind);
            let _ = writeln!(text, "  n{}{open}{label}{close}", number[key]);
        }
        for (child, parent) in &self.parent {
            let _ = writeln!(
                text,
                "  n{} {} n{}{}",
                number[parent], style.clone, number[child], style.end_clone
            );
        }
        for (key, object) in &self.objects {
            for need in object.depends_on() {
                if let Some(other) = number.get(&Key::new(need.kind, &key.namespace, &need.name)) {
                    let _ = writeln!(text, "  n{} {} n{}{}", number[key], style.need, other, style.end_need);
                }
            }
        }
        text.push_str(style.end);
        text
    }
}

fn vmid(object: &GuestObject) -> Option<Vmid> {
    object.status.vmid().or(object.spec_vmid())
}

/// Words of a language for drawings. Names are DNS labels and vmids numbers, so that nothing needs quoting inside.
struct Style {
    begin: &'static str,
    end: &'static str,
    line_break: &'static str,
    /// What stands before and after a node's label.
    node: fn(GuestKind) -> (&'static str, &'static str),
    clone: &'static str,
    end_clone: &'static str,
    need: &'static str,
    end_need: &'static str,
}

const MERMAID: Style = Style {
    begin: "flowchart TD",
    end: "",
    line_break: "<br/>",
    node: |kind| match kind {
        GuestKind::PhoenixTemplate => ("[[\"", "\"]]"),
        GuestKind::PhoenixLXC => ("(\"", "\")"),
        GuestKind::PhoenixVM => ("[\"", "\"]"),
    },
    clone: "-->",
    end_clone: "",
    need: "-. needs .->",
    end_need: "",
};

const DOT: Style = Style {
    begin: "digraph phoenix {",
    end: "}\n",
    line_break: "\\n",
    node: |kind| match kind {
        GuestKind::PhoenixTemplate => (" [shape=folder, label=\"", "\"];"),
        GuestKind::PhoenixLXC => (" [shape=box, style=rounded, label=\"", "\"];"),
        GuestKind::PhoenixVM => (" [shape=box, label=\"", "\"];"),
    },
    clone: "->",
    end_clone: ";",
    need: "->",
    end_need: " [style=dashed, label=\"needs\"];",
};

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::crd::{PhoenixLXC, PhoenixTemplate};

    fn template(name: &str, vmid: Vmid, parent: Option<&str>) -> GuestObject {
        let source = match parent {
            Some(parent) => json!({"templateRef": {"name": parent}}),
            None => json!({"image": {"volid": "local:vztmpl/a.tar.zst"}}),
        };
        let object: PhoenixTemplate = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "ai"},
            "spec": {"hypervisorRef": {"name": "pve"}, "lxc": {"vmid": vmid, "source": source}}
        }))
        .unwrap();
        GuestObject::from(&object)
    }

    fn container(name: &str, parent: &str, needs: &[&str]) -> GuestObject {
        let needs: Vec<_> = needs.iter().map(|n| json!({"kind": "PhoenixLXC", "name": n})).collect();
        let object: PhoenixLXC = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "ai"},
            "spec": {"hypervisorRef": {"name": "pve"}, "source": {"templateRef": {"name": parent}}, "dependsOn": needs},
            "status": {"vmid": 950, "phase": "Ready"}
        }))
        .unwrap();
        GuestObject::from(&object)
    }

    fn fleet() -> Vec<GuestObject> {
        vec![
            container("qwen", "vllm", &["db"]),
            container("db", "base", &[]),
            container("lost", "gone", &[]),
            template("vllm", Vmid::nearest(920), Some("base")),
            template("base", Vmid::nearest(900), None),
        ]
    }

    #[test]
    fn the_tree_shows_lineage_vmids_phases_and_needs() {
        let objects = fleet();
        let expected = "\
PhoenixLXC lost (950)  Ready  from gone, which is not here
PhoenixTemplate base (900)
├── PhoenixLXC db (950)  Ready
└── PhoenixTemplate vllm (920)
    └── PhoenixLXC qwen (950)  Ready  needs db
";
        assert_eq!(Graph::new(&objects).render(Format::Text), expected);
    }

    #[test]
    fn a_chain_of_any_length_is_shown() {
        let name = |n: usize| format!("t{n:05}");
        let objects: Vec<GuestObject> = (0..5000)
            .map(|n| template(&name(n), Vmid::MIN, (n > 0).then(|| name(n - 1)).as_deref()))
            .collect();
        let text = Graph::new(&objects).render(Format::Text);
        assert_eq!(text.lines().count(), 5000);
        assert!(text.ends_with("└── PhoenixTemplate t04999 (100)\n"));
        assert!(text.lines().all(|l| l.chars().count() < 250));
    }

    #[test]
    fn a_circle_of_templates_is_shown_and_ends() {
        let objects = [
            template("a", Vmid::nearest(101), Some("b")),
            template("b", Vmid::nearest(102), Some("a")),
        ];
        let text = Graph::new(&objects).render(Format::Text);
        assert_eq!(
            text,
            "PhoenixTemplate a (101)\n└── PhoenixTemplate b (102)\n    └── a (a circle: see above)\n"
        );
    }

    #[test]
    fn drawings_have_every_node_and_edge() {
        let objects = fleet();
        let graph = Graph::new(&objects);
        let mermaid = graph.render(Format::Mermaid);
        assert!(
            mermaid.starts_with("flowchart TD\n") && mermaid.contains("n3[[\"base<br/>900\"]]"),
            "{mermaid}"
        );
        assert_eq!(mermaid.matches("-->").count(), 3);
        assert!(mermaid.contains("n2 -. needs .-> n0"), "{mermaid}");
        let dot = graph.render(Format::Dot);
        assert!(
            dot.ends_with("}\n") && dot.contains("n3 -> n4;") && dot.contains("[style=dashed"),
            "{dot}"
        );
    }
}
