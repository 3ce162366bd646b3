//! What the operator can read: which watches have shown all that there is, and what is in the way of the others. Pure.
//!
//! One namespace that may not be read holds up nobody else. Of a namespace that is not seen as a whole nothing is worked on:
//! half of its objects would be as wrong as none.

use std::collections::{BTreeMap, BTreeSet};

use super::{Item, Kind};

/// One watch: a kind in a namespace, or in all (`None`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Scope {
    /// Where.
    pub(crate) namespace: Option<String>,
    /// What.
    pub(crate) kind: Kind,
}

/// What is in the way of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Problem {
    /// The operator may not read it.
    Forbidden,
    /// The operator's credentials are not accepted.
    Unauthorized,
    /// The API server does not know the kind.
    NoKind,
    /// The API server does not answer, or answers badly.
    Unreachable,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Watch {
    whole: bool,
    problem: Option<Problem>,
}

/// What is known of all watches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Coverage {
    watches: BTreeMap<Scope, Watch>,
}

impl Coverage {
    /// A watch that has shown nothing yet.
    pub(crate) fn expect(&mut self, scope: Scope) {
        self.watches.entry(scope).or_default();
    }

    /// A watch has shown all that there is.
    pub(crate) fn whole(&mut self, scope: &Scope) {
        let whole = Watch {
            whole: true,
            problem: None,
        };
        self.watches.insert(scope.clone(), whole);
    }

    /// A watch failed. Whether nobody was told of this yet: a problem is told once for all kinds of a namespace.
    pub(crate) fn failed(&mut self, scope: &Scope, problem: Problem) -> bool {
        let same = |(other, watch): (&Scope, &Watch)| {
            watch.problem == Some(problem) && (problem == Problem::Unreachable || other.namespace == scope.namespace)
        };
        let told = self.watches.iter().any(same);
        self.watches.entry(scope.clone()).or_default().problem = Some(problem);
        !told
    }

    /// A watch that failed works again.
    pub(crate) fn works(&mut self, scope: &Scope) {
        self.watches.entry(scope.clone()).or_default().problem = None;
    }

    /// Whether work may begin: what concerns all namespaces is there, so is all of one namespace, and every other one
    /// is either there too or refused. What has merely not come yet is waited for.
    pub(crate) fn may_begin(&self) -> bool {
        let decided = |(scope, watch): (&Scope, &Watch)| {
            let refused = watch.problem.is_some_and(|problem| problem != Problem::Unreachable);
            watch.whole || (refused && scope.namespace.is_some())
        };
        let named = || self.watches.keys().filter_map(|scope| scope.namespace.as_deref());
        let some = named().next().is_none() || named().any(|namespace| self.is_whole_at(Some(namespace)));
        some && self.watches.iter().all(decided)
    }

    /// Whether all kinds of a namespace have been read, or are by the watches of all namespaces.
    pub(crate) fn is_whole(&self, namespace: &str) -> bool {
        self.is_whole_at(None) && self.is_whole_at(Some(namespace))
    }

    fn is_whole_at(&self, namespace: Option<&str>) -> bool {
        let own = |scope: &Scope| scope.namespace.as_deref() == namespace;
        self.watches
            .iter()
            .filter(|(scope, _)| own(scope))
            .all(|(_, watch)| watch.whole)
    }

    /// Whether nothing is missing: only then it is known that nobody needs a thing.
    pub(crate) fn is_all_whole(&self) -> bool {
        self.watches.values().all(|watch| watch.whole)
    }

    /// Whether a piece of work is of a namespace that is seen as a whole.
    pub(crate) fn covers(&self, item: &Item) -> bool {
        self.is_whole(item.namespace())
    }

    /// What keeps the objects of a namespace from being known: of its own watches, or of those of all namespaces.
    pub(crate) fn problem(&self, namespace: &str) -> Option<String> {
        let of_it = |scope: &Scope| scope.namespace.as_deref().is_none_or(|watched| watched == namespace);
        let mut watches = self
            .watches
            .iter()
            .filter(|(scope, watch)| of_it(scope) && !watch.whole);
        watches.find_map(|(scope, watch)| watch.problem.map(|problem| words(scope, problem)))
    }

    /// Why objects of a namespace are not known, where they are not: in words for those who name one.
    pub(crate) fn hidden(&self, namespace: &str) -> Option<String> {
        let all = |scope: &Scope| scope.namespace.is_none() && scope.kind == Kind::Hypervisor;
        let watched = |scope: &Scope| scope.namespace.as_deref() == Some(namespace);
        if !self.watches.keys().any(|scope| all(scope) || watched(scope)) {
            return Some(format!(
                "the operator does not work for namespace {namespace}: add it to PHOENIX_NAMESPACES of the operator, and \
                 kubectl apply -n {namespace} -k config/rbac/namespace"
            ));
        }
        let of_it = |(scope, watch): &(&Scope, &Watch)| watched(scope) && !watch.whole;
        let (scope, watch) = self.watches.iter().find(of_it)?;
        Some(match watch.problem {
            Some(problem) => words(scope, problem),
            None => format!("the operator has not read namespace {namespace} yet"),
        })
    }

    /// What is missing, a line for each namespace and problem; empty when nothing is.
    pub(crate) fn missing(&self) -> Vec<String> {
        let mut lines = BTreeMap::new();
        for (scope, watch) in &self.watches {
            let namespace = scope.namespace.as_deref();
            match watch.problem {
                Some(problem) => drop(
                    lines
                        .entry((namespace, Some(problem)))
                        .or_insert_with(|| words(scope, problem)),
                ),
                None if !watch.whole => {
                    let line: &mut String = lines.entry((namespace, None)).or_default();
                    let comma = if line.is_empty() { "" } else { ", " };
                    line.push_str(&format!("{comma}{}", scope.kind.as_str()));
                }
                None => {}
            }
        }
        let words = lines.into_iter().map(|((namespace, problem), line)| match problem {
            Some(_) => line,
            None => format!("{}: not read yet: {line}", place(namespace)),
        });
        words.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

fn place(namespace: Option<&str>) -> String {
    namespace.map_or_else(|| "all namespaces".into(), |namespace| format!("namespace {namespace}"))
}

/// What is in the way, and what helps.
pub(crate) fn words(scope: &Scope, problem: Problem) -> String {
    let (kind, at) = (scope.kind.as_str(), place(scope.namespace.as_deref()));
    match (problem, scope.namespace.as_deref()) {
        (Problem::Forbidden, _) if scope.kind.exposes() => format!(
            "{at}: the operator may not read what exposed guests are reached by ({kind} is forbidden): \
             phoenix install --expose, or take --expose off the operator"
        ),
        (Problem::Forbidden, Some(namespace)) => format!(
            "{at}: the operator may not read it ({kind} is forbidden): kubectl apply -n {namespace} -k \
             config/rbac/namespace, or take it out of PHOENIX_NAMESPACES"
        ),
        (Problem::Forbidden, None) if scope.kind == Kind::Namespace => {
            "the operator may not list namespaces: kubectl apply -k config/rbac".into()
        }
        (Problem::Forbidden, None) => format!(
            "{at}: the operator may not read them ({kind} is forbidden): name the namespaces in PHOENIX_NAMESPACES, or \
             bind the ClusterRole phoenix-operator-namespaced to its service account by a ClusterRoleBinding"
        ),
        (Problem::NoKind, _) => format!("the API server does not know {kind}: kubectl apply -f crds/"),
        (Problem::Unauthorized, _) => {
            "the API server does not accept the operator's credentials: renew the service account's token, or the \
             credentials of KUBECONFIG"
                .into()
        }
        (Problem::Unreachable, _) => "the API server does not answer".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(namespace: Option<&str>, kind: Kind) -> Scope {
        Scope {
            namespace: namespace.map(String::from),
            kind,
        }
    }

    /// Two kinds in each of two namespaces, and namespaces.
    fn coverage() -> Coverage {
        let mut coverage = Coverage::default();
        coverage.expect(scope(None, Kind::Namespace));
        for namespace in ["a", "b"] {
            coverage.expect(scope(Some(namespace), Kind::Hypervisor));
            coverage.expect(scope(Some(namespace), Kind::Secret));
        }
        coverage
    }

    #[test]
    fn a_namespace_that_is_refused_holds_up_no_other() {
        let mut coverage = coverage();
        assert!(!coverage.may_begin());
        coverage.whole(&scope(None, Kind::Namespace));
        coverage.whole(&scope(Some("a"), Kind::Hypervisor));
        coverage.whole(&scope(Some("a"), Kind::Secret));
        assert!(!coverage.may_begin(), "b may come at any moment");
        assert!(coverage.failed(&scope(Some("b"), Kind::Hypervisor), Problem::Forbidden));
        assert!(!coverage.may_begin());
        assert!(
            !coverage.failed(&scope(Some("b"), Kind::Secret), Problem::Forbidden),
            "it is told once"
        );
        assert!(coverage.may_begin() && coverage.is_whole("a") && !coverage.is_whole("b") && !coverage.is_all_whole());
        let missing = coverage.missing();
        assert_eq!(missing.len(), 1, "{missing:?}");
        assert!(
            missing[0].contains("kubectl apply -n b -k config/rbac/namespace"),
            "{missing:?}"
        );
        assert_eq!(coverage.hidden("b").as_ref(), missing.first());
        assert_eq!(coverage.hidden("a"), None);
        assert!(coverage.hidden("c").unwrap().contains("add it to PHOENIX_NAMESPACES"));
        // The RoleBinding is there.
        coverage.whole(&scope(Some("b"), Kind::Hypervisor));
        assert!(!coverage.is_whole("b"));
        coverage.whole(&scope(Some("b"), Kind::Secret));
        assert!(coverage.is_whole("b") && coverage.is_all_whole() && coverage.missing().is_empty());
    }

    #[test]
    fn work_waits_for_an_api_server_that_does_not_answer() {
        let mut coverage = coverage();
        for kind in [Kind::Hypervisor, Kind::Secret] {
            coverage.whole(&scope(Some("a"), kind));
            coverage.failed(&scope(Some("b"), kind), Problem::Unreachable);
        }
        coverage.whole(&scope(None, Kind::Namespace));
        assert!(!coverage.may_begin());
    }

    #[test]
    fn work_waits_where_every_namespace_is_refused() {
        let mut coverage = coverage();
        coverage.whole(&scope(None, Kind::Namespace));
        for namespace in ["a", "b"] {
            for kind in [Kind::Hypervisor, Kind::Secret] {
                coverage.failed(&scope(Some(namespace), kind), Problem::Forbidden);
            }
        }
        assert!(!coverage.may_begin());
        assert_eq!(coverage.missing().len(), 2);
    }

    #[test]
    fn each_problem_names_what_helps() {
        for (namespace, kind, problem, help) in [
            (
                None,
                Kind::Namespace,
                Problem::Forbidden,
                "kubectl apply -k config/rbac",
            ),
            (None, Kind::Secret, Problem::Forbidden, "PHOENIX_NAMESPACES"),
            (
                Some("a"),
                Kind::Hypervisor,
                Problem::NoKind,
                "PhoenixHypervisor: kubectl apply -f crds/",
            ),
            (None, Kind::Namespace, Problem::Unauthorized, "token"),
        ] {
            let mut coverage = Coverage::default();
            assert!(coverage.failed(&scope(namespace, kind), problem));
            assert!(!coverage.failed(&scope(namespace, kind), problem));
            assert!(coverage.missing()[0].contains(help), "{:?}", coverage.missing());
            coverage.works(&scope(namespace, kind));
            assert!(coverage.failed(&scope(namespace, kind), problem), "it is told anew");
        }
    }
}
