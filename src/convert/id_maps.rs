//! `id_maps`: users and groups of an unprivileged container that are those of the node, as raw lines.

use super::json::At;
use super::values;
use super::writer::Writer;

/// Ids that an unprivileged container has, and where they begin on the node unless somebody says otherwise.
const IDS: i64 = 65_536;
const BASE: i64 = 100_000;

/// A range: first id in the container, first on the node, how many.
type Range = (i64, i64, i64);

/// The lines `lxc.idmap = …` that `id_maps` stand for, put behind `lines`.
pub fn id_maps(w: &mut Writer, guest: &At, unprivileged: Option<bool>, lines: &mut Option<Vec<String>>) {
    let Some(list) = w.key(guest, &["id_maps"]) else { return };
    if list.items().is_empty() {
        return w.defaulted(&list, "", "an empty list: nothing to write");
    }
    if unprivileged == Some(false) {
        return w.skip(&list, "a privileged container has the node's ids anyway");
    }
    if lines.iter().flatten().any(|line| line.starts_with("lxc.idmap")) {
        return w.skip_warn(
            &list,
            "id_maps: lxc_options map ids themselves, and they count",
            "keep one of them",
        );
    }
    let (mut users, mut groups): (Vec<(At, Range)>, Vec<(At, Range)>) = Default::default();
    for item in list.items() {
        let number = |keys: &[&str]| {
            let value = keys.iter().find_map(|key| item.get(key))?;
            values::integer(value.node).filter(|n| *n >= 0)
        };
        let size = number(&["size", "count"]).unwrap_or(1);
        let range = number(&["container_id"])
            .zip(number(&["host_id"]))
            .map(|(inside, node)| (inside, node, size));
        let fits = range.filter(|(inside, node, size)| *size > 0 && inside + size <= IDS && node + size < 1 << 31);
        let sort = item
            .get("type")
            .and_then(|at| values::text(at.node))
            .unwrap_or_default();
        match (fits, sort.as_str()) {
            (Some(range), "uid" | "u") => users.push((item, range)),
            (Some(range), "gid" | "g") => groups.push((item, range)),
            (Some(range), "both" | "b" | "") => {
                users.push((item.clone(), range));
                groups.push((item, range));
            }
            _ => {
                let fix = "give type (uid, gid or both), container_id, host_id and size";
                w.skip_warn(&item, &format!("id_maps entry {} is no mapping", item.node.show()), fix);
            }
        }
    }
    if users.is_empty() && groups.is_empty() {
        return;
    }
    let place = lines.iter().flatten().count();
    for (sort, file, ranges) in [("u", "subuid", users), ("g", "subgid", groups)] {
        let Some(all) = whole(ranges.iter().map(|(_, range)| *range).collect()) else {
            let message = format!("id_maps: ranges of {sort} ids overlap");
            w.skip_warn(&list, &message, "give each id once");
            continue;
        };
        let own = all
            .iter()
            .map(|(inside, node, size)| format!("lxc.idmap = {sort} {inside} {node} {size}"));
        lines.get_or_insert_default().extend(own);
        for (item, (_, node, size)) in ranges {
            w.mapped(
                &item,
                &format!("lxcOptions[{place}]"),
                "with the ids beside it, mapped as usual",
            );
            let message = format!("ids {node} to {} of the node are the container's too", node + size - 1);
            w.warn(
                &item,
                &message,
                &format!("have the line root:{node}:{size} in /etc/{file} of the node"),
            );
        }
    }
}

/// All ids of a container: the given ranges, and the others where they usually are. `None` where two overlap.
fn whole(mut given: Vec<Range>) -> Option<Vec<Range>> {
    given.sort_unstable();
    let mut all = Vec::new();
    let mut next = 0;
    for (inside, node, size) in given {
        if inside < next {
            return None;
        }
        if inside > next {
            all.push((next, BASE + next, inside - next));
        }
        all.push((inside, node, size));
        next = inside + size;
    }
    if next < IDS {
        all.push((next, BASE + next, IDS - next));
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_ids_are_where_they_usually_are() {
        let wanted = vec![(0, 100_000, 33), (33, 33, 1), (34, 100_034, 65_502)];
        assert_eq!(whole(vec![(33, 33, 1)]), Some(wanted));
        assert_eq!(whole(vec![]), Some(vec![(0, 100_000, 65_536)]));
        assert_eq!(whole(vec![(0, 0, 65_536)]), Some(vec![(0, 0, 65_536)]));
        assert_eq!(whole(vec![(5, 5, 2), (6, 6, 1)]), None);
        assert_eq!(whole(vec![(5, 5, 1), (6, 6, 1)]).unwrap().len(), 4);
    }
}
