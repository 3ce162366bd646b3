//! `traefik_service`: what a proxy of the legacy fleet served is a port of the object's Service.

use crate::crd::Expose;
use crate::desired::expose::is_label;

use super::guests::Guest;
use super::values;
use super::writer::Writer;

/// Maps `traefik_service`; a template serves nothing.
pub fn expose(w: &mut Writer, guest: &Guest, template: bool) -> Option<Vec<Expose>> {
    let at = w.key(&guest.at, &["traefik_service"])?;
    if template {
        w.skip(
            &at,
            "a template does not run: the guests that are cloned from it are served",
        );
        return None;
    }
    if !is_label(&guest.name) {
        let message = format!(
            "traefik_service: no Service can be called {:?}, so the guest is not exposed",
            guest.name
        );
        let fix = "give the guest a name of lower-case letters, digits and '-' that begins with a letter";
        w.skip_warn(&at, &message, fix);
        return None;
    }
    let number = |node: &super::json::Node| values::integer(node).filter(|n| (1..=65_535).contains(n));
    let port = w.read(&at, &["port"], "expose[0].port", number, "a port from 1 to 65535");
    let Some(port) = port else {
        w.skip(&at, "without a port there is nothing to serve");
        return None;
    };
    let scheme = |text: &str| ["http", "https"].contains(&text).then(|| text.to_owned());
    let scheme = w.text(&at, &["scheme"], "expose[0].appProtocol", scheme, "http or https");
    if let Some(name) = w.key(&at, &["name"]) {
        let note = "the Service is called as its object";
        match values::text(name.node).as_deref() == Some(&guest.name) {
            true => w.defaulted(&name, "", note),
            false => w.skip(
                &name,
                &format!("{note}; host names stand in an Ingress or HTTPRoute (docs/routing.md)"),
            ),
        }
    }
    Some(vec![Expose {
        name: scheme.clone().unwrap_or_else(|| "http".into()),
        port,
        app_protocol: scheme,
        ..Expose::default()
    }])
}
