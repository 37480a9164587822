//! The links of all Markdown pages lead to files and headings of this repository that exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Folders without pages of the repository's own.
const LEFT_OUT: [&str; 3] = ["target", ".git", "corpus"];

/// Collects the Markdown files below `folder`. Links to folders are not followed.
fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() && !LEFT_OUT.iter().any(|name| entry.file_name() == *name) {
            pages(&path, found);
        } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// The lines of a page that are not in blocks of code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    })
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen = BTreeMap::new();
    prose(text)
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let words = line.trim_start_matches('#').trim().to_lowercase();
            let kept = words.chars().filter(|&c| c.is_alphanumeric() || "-_ ".contains(c));
            let anchor = kept.collect::<String>().replace(' ', "-");
            let before = seen.entry(anchor.clone()).and_modify(|count| *count += 1).or_insert(0);
            if *before == 0 { anchor } else { format!("{anchor}-{before}") }
        })
        .collect()
}

/// Where a page's links lead: `[text](target)`, and `[name]: target` at the beginning of a line.
fn targets(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(text) {
        // What stands between backquotes is code.
        let line: String = line.split('`').step_by(2).collect();
        let inline = line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
        let defined = line.strip_prefix('[').and_then(|rest| rest.split_once("]: "));
        let is_note = line.starts_with("[^");
        found.extend(inline.chain(defined.filter(|_| !is_note).map(|(_, target)| target)).map(str::to_owned));
    }
    found
}

/// The path without `..`.
fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut path, part| {
        if part == Component::ParentDir {
            path.pop();
        } else {
            path.push(part);
        }
        path
    })
}

#[test]
fn every_link_of_every_page_leads_somewhere() {
    let root = normal(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    let mut found = Vec::new();
    pages(&root, &mut found);
    let texts: BTreeMap<PathBuf, String> =
        found.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect();
    let (mut broken, mut count) = (Vec::new(), 0);
    for (page, text) in &texts {
        for target in targets(text).iter().filter(|target| !target.contains("://")) {
            count += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path =
                if file.is_empty() { page.clone() } else { normal(&page.parent().unwrap().join(file)) };
            let is_right = match texts.get(&path) {
                Some(text) => anchor.is_empty() || anchors(text).contains(anchor),
                None => anchor.is_empty() && path.exists(),
            };
            if !is_right {
                broken.push(format!("{}: {target}", page.strip_prefix(&root).unwrap().display()));
            }
        }
    }
    assert!(broken.is_empty(), "these links lead nowhere:\n{}", broken.join("\n"));
    // The test would find nothing wrong if it found no links.
    assert!(count > 20, "{count} links in {} pages", texts.len());
}

#[test]
fn anchors_are_made_of_headings_as_github_makes_them() {
    let text = "# What a *peer* takes, and `why`\n```sh\n# no heading\n```\n## Twice\n## Twice\n";
    let expected = ["twice", "twice-1", "what-a-peer-takes-and-why"];
    assert_eq!(anchors(text).into_iter().collect::<Vec<_>>(), expected);
    let text = "see [a](b.md#c) and `[not](this)` and ![d](e.svg \"title\")\n[f]: g.md\n[^1]: a note\n";
    assert_eq!(targets(text), ["b.md#c", "e.svg", "g.md"]);
}
