//! Checks that the modules of the crate have no circular dependencies.
//!
//! A module's children are compared with each other: a child depends on a sibling if it, or a module within it, names
//! the sibling in a path. A child may name what its own parent defines. Test code does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A module's path from the root of the crate, such as `["udp", "send"]`.
type Module = Vec<String>;

fn sources(directory: &Path, parent: &[String], found: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(directory).expect("the directory is there").map(|entry| entry.unwrap().path()) {
        let stem = entry.file_stem().unwrap().to_str().expect("an ASCII name").to_owned();
        let mut module = parent.to_vec();
        if entry.is_dir() {
            module.push(stem);
            sources(&entry, &module, found);
        } else {
            match stem.as_str() {
                "lib" | "main" => continue,
                "mod" => (),
                _ => module.push(stem),
            }
            found.insert(module, fs::read_to_string(&entry).unwrap());
        }
    }
}

/// Removes comments and test-only items; returns the modules among those items too.
fn without_tests(text: &str) -> (String, Vec<String>) {
    let (mut kept, mut dropped) = (String::new(), Vec::new());
    let mut lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    while let Some(line) = lines.next() {
        let indentation = &line[..line.len() - line.trim_start().len()];
        if !line.trim_start().starts_with("#[cfg(") || !line.contains("test") || line.contains("not(") {
            kept += line;
            kept.push('\n');
            continue;
        }
        let item = lines.next().unwrap_or_default().trim_start();
        if let Some(module) = item.trim_start_matches("pub(crate) ").strip_prefix("mod ") {
            dropped.extend(module.strip_suffix(';').map(ToOwned::to_owned));
        }
        let end = format!("{indentation}}}");
        if !item.ends_with(';') {
            lines.by_ref().find(|line| line.trim_end().trim_end_matches(';') == end);
        }
    }
    (kept, dropped)
}

/// The length of the path at the start of a text, including a group of names in braces.
fn path_len(text: &str) -> usize {
    let mut depth = 0;
    let end = text.find(|c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        depth < 0 || !(c.is_alphanumeric() || "_:{}".contains(c) || depth > 0 && ",*\n ".contains(c))
    });
    end.unwrap_or(text.len())
}

/// All paths of `a::{b, c::{d, e}}`.
fn expand(prefix: &[String], tree: &str) -> Vec<Module> {
    let tree = tree.trim();
    let Some((head, group)) = tree.split_once('{') else {
        let names = tree.split("::").map(str::trim).filter(|name| !name.is_empty()).map(ToOwned::to_owned);
        return vec![prefix.iter().cloned().chain(names).collect()];
    };
    let names = head.split("::").map(str::trim).filter(|name| !name.is_empty()).map(ToOwned::to_owned);
    let prefix: Module = prefix.iter().cloned().chain(names).collect();
    let (mut depth, mut start, mut all) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                all.extend(expand(&prefix, &group[start..at]));
                start = at + 1;
            }
            _ => (),
        }
    }
    all
}

/// The paths that a module's text names, from the root of the crate.
fn paths(module: &Module, text: &str) -> Vec<Module> {
    let mut found = Vec::new();
    for root in ["crate::", "super::", "self::"] {
        for (at, _) in text.match_indices(root) {
            let before = text[..at].chars().next_back().unwrap_or(' ');
            if before.is_alphanumeric() || before == '_' || before == ':' {
                continue;
            }
            let path = &text[at..];
            for mut path in expand(&[], &path[..path_len(path)]) {
                let mut base = module.clone();
                while let Some("super" | "self" | "crate") = path.first().map(String::as_str) {
                    match path.remove(0).as_str() {
                        "super" => drop(base.pop()),
                        "crate" => base.clear(),
                        _ => (),
                    }
                }
                base.extend(path);
                found.push(base);
            }
        }
    }
    found
}

type Graph = BTreeMap<Module, BTreeSet<Module>>;

/// The dependencies between children of the same parent.
fn graph(sources: &BTreeMap<Module, String>) -> Graph {
    let mut graph = Graph::new();
    for (module, text) in sources {
        for path in paths(module, text) {
            let Some(target) =
                (1..=path.len()).rev().map(|len| &path[..len]).find(|p| sources.contains_key(*p))
            else {
                continue;
            };
            let shared = module.iter().zip(target).take_while(|(a, b)| a == b).count();
            if shared < module.len() && shared < target.len() {
                let (from, to) = (module[..=shared].to_vec(), target[..=shared].to_vec());
                graph.entry(from).or_default().insert(to);
            }
        }
    }
    graph
}

/// A circular dependency from a module on, if there is one.
fn circle(graph: &Graph, way: &mut Vec<Module>, cleared: &mut BTreeSet<Module>) -> Option<Vec<Module>> {
    let here = way.last().expect("the way has begun").clone();
    for next in graph.get(&here).into_iter().flatten() {
        if let Some(at) = way.iter().position(|module| module == next) {
            return Some(way[at..].to_vec());
        }
        if !cleared.contains(next) {
            way.push(next.clone());
            let found = circle(graph, way, cleared);
            way.pop();
            if found.is_some() {
                return found;
            }
        }
    }
    cleared.insert(here);
    None
}

fn first_circle(sources: BTreeMap<Module, String>) -> Option<Vec<String>> {
    let (mut kept, mut dropped) = (BTreeMap::new(), BTreeSet::new());
    for (module, text) in sources {
        let (text, tests) = without_tests(&text);
        dropped.extend(tests.into_iter().map(|test| [&module[..], &[test]].concat()));
        kept.insert(module, text);
    }
    kept.retain(|module, _| !dropped.contains(module));
    let (graph, mut cleared) = (graph(&kept), BTreeSet::new());
    let found = graph.keys().find_map(|module| circle(&graph, &mut vec![module.clone()], &mut cleared));
    found.map(|modules| modules.iter().map(|module| module.join("::")).collect())
}

#[test]
fn there_are_no_circular_dependencies() {
    let mut found = BTreeMap::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &[], &mut found);
    assert!(found.len() > 40, "the sources are found");
    assert_eq!(first_circle(found), None);
}

fn made(files: &[(&str, &str)]) -> BTreeMap<Module, String> {
    let module = |name: &str| name.split("::").map(ToOwned::to_owned).collect();
    files.iter().map(|&(name, text)| (module(name), text.to_owned())).collect()
}

#[test]
fn circular_dependencies_are_found_in_all_forms() {
    let circle = |files| first_circle(made(files)).map(|modules| modules.join(" "));
    assert_eq!(circle(&[("a", "use crate::b::X;"), ("b", "fn f() { crate::a::f() }")]), Some("a b".into()));
    assert_eq!(
        circle(&[("a", "use crate::{c, b::{self, X}};"), ("b", "use super::a;"), ("c", "")]),
        Some("a b".into())
    );
    let inner = [("a", ""), ("a::x", "use crate::b::y::Z;"), ("b", ""), ("b::y", "use crate::a;")];
    assert_eq!(circle(&inner), Some("a b".into()));
    assert_eq!(
        circle(&[("a", ""), ("a::x", "use super::y;"), ("a::y", "use super::x;")]),
        Some("a::x a::y".into())
    );
}

#[test]
fn parents_and_test_code_are_no_circular_dependencies() {
    let circle = |files| first_circle(made(files));
    assert_eq!(circle(&[("a", "use self::x::X;"), ("a::x", "use super::Y;")]), None);
    assert_eq!(
        circle(&[
            ("a", "use crate::b;"),
            ("b", "// crate::a\n#[cfg(test)]\nmod tests {\n    use crate::a;\n}\n")
        ]),
        None
    );
    assert_eq!(
        circle(&[("a", "use crate::b;"), ("b", "#[cfg(test)]\nmod x;"), ("b::x", "use crate::a;")]),
        None
    );
}
