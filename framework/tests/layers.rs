//! Imports between source files form no circle, protocol code does no I/O, and public signatures name no type of
//! another crate.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::Path;

/// The source folders to check, each of one crate.
const CRATES: [&str; 3] = ["src", "../servers/src", "../stress/src"];

/// What protocol code must not name: I/O, threads and clocks. In `crate::sys`, only the calls of OpenSSL do no
/// I/O.
const FORBIDDEN: &str = "crate::net crate::serve crate::drive crate::sys libc socket2 std::fs std::net::Tcp \
    std::net::Udp std::os std::thread std::time::Instant::now std::time::SystemTime";
const ALLOWED: &str = "crate::sys::ossl";

type Words = Vec<String>;

/// The source files of a crate by module path; `crate` alone is `lib.rs`.
struct Crate(BTreeMap<Words, File>);

/// The code of a file outside tests: names in `use` declarations, each with its path and whether it is
/// re-exported, and everything else.
#[derive(Default)]
struct File {
    uses: Vec<(Words, String, bool)>,
    tokens: Words,
}

#[test]
fn no_imports_form_a_circle() {
    for folder in CRATES {
        let files = Crate::read(folder);
        let imports = files.0.keys().map(|file| (file, files.imports(file))).collect();
        let circles = files.0.keys().filter_map(|file| circle(file, &imports));
        let circle = circles.min_by_key(Vec::len).unwrap_or_default();
        let arrow =
            |pair: &[&Words]| format!("  {} names {}\n", pair[0].join("::"), imports[pair[0]][pair[1]]);
        let arrows: String = circle.windows(2).map(arrow).collect();
        assert!(
            circle.is_empty(),
            "the imports of these files in {folder} form a circle:\n{arrows}Move what they need of each other into a \
             file below them, or pass it as an argument."
        );
    }
}

/// The files and folders with public items.
const PUBLIC: &str = "address admission client config credentials error events handler new_socket observe outbox peer sctp sender server stream testing";

#[test]
fn public_signatures_name_no_type_of_openssl_or_socket2() {
    const BEGINNINGS: [&str; 3] = ["pub fn", "pub const", "pub type"];
    let files = Crate::read("src");
    let is_public =
        |module: &&Words| module.get(1).is_some_and(|name| PUBLIC.split(' ').any(|it| it == name));
    for module in files.0.keys().filter(is_public) {
        let File { uses, tokens } = &files.0[module];
        let is_foreign = |name: &str| ["openssl", "socket2"].contains(&name);
        let is_named = |token: &String| {
            is_foreign(token) || uses.iter().any(|(path, name, _)| is_foreign(&path[0]) && name == token)
        };
        for (at, pair) in tokens.windows(2).enumerate() {
            let rest = tokens[at..].iter();
            let signature: Vec<_> = rest.take_while(|token| !["{", ";"].contains(&&***token)).collect();
            let begins = BEGINNINGS.contains(&&*pair.join(" "))
                || (pair[0] == "impl" && signature.iter().any(|token| *token == "for"));
            assert!(
                !begins || !signature.iter().any(|token| is_named(token)),
                "{} shows users a type of another crate: {signature:?}",
                module.join("::")
            );
        }
    }
}

#[test]
fn protocol_code_names_no_socket_thread_or_clock() {
    let files = Crate::read("src");
    for module in files.0.keys().filter(|module| module.get(1).is_some_and(|name| name == "protocol")) {
        for path in files.paths(module).iter().map(|path| path.join("::")) {
            let bad = FORBIDDEN.split(' ').any(|bad| path.starts_with(bad)) && !path.starts_with(ALLOWED);
            assert!(
                !bad,
                "{} names {path}, but protocol code is given bytes and the time",
                module.join("::")
            );
        }
        assert!(!files.0[module].tokens.iter().any(|token| token == "elapsed"), "{module:?} reads a clock");
    }
}

/// Returns the shortest way along imports from a file back to itself.
fn circle<'a>(
    start: &'a Words,
    imports: &'a BTreeMap<&Words, BTreeMap<Words, String>>,
) -> Option<Vec<&'a Words>> {
    let (mut queue, mut from) = (VecDeque::from([start]), BTreeMap::new());
    while let Some(file) = queue.pop_front() {
        for next in imports[file].keys() {
            if !from.contains_key(next) {
                from.insert(next, file);
                queue.push_back(next);
            }
        }
    }
    let mut way = vec![start, from.get(start)?];
    while way.last() != Some(&start) {
        way.push(from[way[way.len() - 1]]);
    }
    way.reverse();
    Some(way)
}

impl Crate {
    fn read(folder: &str) -> Self {
        let mut files = Self(BTreeMap::new());
        files.read_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &["crate".to_owned()]);
        assert!(files.0.len() > 10, "there are no sources in {folder}");
        files
    }

    fn read_folder(&mut self, folder: &Path, module: &[String]) {
        for entry in fs::read_dir(folder).expect("a folder of sources") {
            let path = entry.expect("an entry of the folder").path();
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            let own = matches!(&*name, "lib" | "mod");
            let child = if own { module.to_vec() } else { [module, std::slice::from_ref(&name)].concat() };
            match &*name {
                "tests" | "model" | "simulation" | "bin" => {}
                _ if path.is_dir() => self.read_folder(&path, &child),
                _ => drop(
                    self.0.insert(child, File::parse(&fs::read_to_string(&path).expect("a source file"))),
                ),
            }
        }
    }

    /// Returns the files that one file imports, each with a path that it names.
    fn imports(&self, module: &Words) -> BTreeMap<Words, String> {
        let homes =
            self.paths(module).into_iter().filter_map(|path| Some((self.home(&path, 0)?, path.join("::"))));
        homes.filter(|(home, _)| home != module).collect()
    }

    /// Returns the absolute paths that a file names. A re-export of a child's item counts only if the code uses
    /// the item as well.
    fn paths(&self, module: &Words) -> Vec<Words> {
        let File { uses, tokens } = &self.0[module];
        let imported = uses.iter().map(|(path, name, public)| (self.absolute(module, path), name, public));
        let imported = imported
            .filter(|(path, name, public)| !(**public && path.starts_with(module)) || tokens.contains(name))
            .map(|(path, ..)| path);
        let named = (0..tokens.len()).filter(|at| *at == 0 || tokens[at - 1] != "::").map(|at| {
            let pairs = tokens[at..].chunks(2).scan(true, |more, pair| {
                let word = more.then(|| pair[0].clone());
                *more = pair.get(1).is_some_and(|sign| sign == "::");
                word
            });
            pairs.collect::<Words>()
        });
        let named = named.filter(|path| path.len() > 1).map(|path| self.absolute(module, &path));
        imported.chain(named).collect()
    }

    /// Resolves `self`, `super`, children and imported names at the front of a path.
    fn absolute(&self, module: &[String], path: &[String]) -> Words {
        let imported =
            || self.0.get(module)?.uses.iter().find(|(of, name, _)| *name == path[0] && of != path);
        match &*path[0] {
            "crate" => path.to_vec(),
            "self" => [module, &path[1..]].concat(),
            "super" if path.get(1).is_some_and(|next| next == "super") => {
                self.absolute(&module[..module.len() - 1], &path[1..])
            }
            "super" => [&module[..module.len() - 1], &path[1..]].concat(),
            _ if self.0.contains_key(&[module, &path[..1]].concat()) => [module, path].concat(),
            _ => match imported() {
                Some((of, ..)) => [&self.absolute(module, of)[..], &path[1..]].concat(),
                None => path.to_vec(),
            },
        }
    }

    /// Returns the file that defines the item at a path, through re-exports. Returns none outside this crate.
    fn home(&self, path: &[String], depth: usize) -> Option<Words> {
        let len = (1..=path.len()).rev().find(|len| self.0.contains_key(&path[..*len]))?;
        let (module, rest) = path.split_at(len);
        let found =
            rest.first().and_then(|next| self.0[module].uses.iter().find(|(_, name, _)| name == next));
        match found {
            Some((of, ..)) if depth < 8 => self.home(&self.absolute(module, of), depth + 1),
            _ => Some(module.to_vec()),
        }
    }
}

impl File {
    fn parse(source: &str) -> Self {
        let lines: Vec<_> = source.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
        let is_module = |line: &&str| line.contains("mod ") && line.ends_with('{');
        let begins_tests = |(at, line): (usize, &&str)| {
            line.starts_with("#[cfg(")
                && line.contains("test")
                && lines[at + 1..].iter().take(2).any(is_module)
        };
        let end = lines.iter().enumerate().position(begins_tests).unwrap_or(lines.len());
        let code = lines[..end].join("\n").replace("::", "\u{1}");
        let mut file = Self::default();
        let mut rest = code.as_str();
        while let Some(first) = rest.chars().next() {
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            let len = if is_word(first) {
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            } else {
                first.len_utf8()
            };
            let (token, after) = rest.split_at(len);
            let line = code[..code.len() - rest.len()].rsplit('\n').next().unwrap_or_default().trim();
            rest = after;
            if token == "use" && (line.is_empty() || line.starts_with("pub")) {
                let (tree, after) = rest.split_once(';').expect("a semicolon ends a declaration");
                file.add_uses(&[], tree, line.starts_with("pub"));
                rest = after;
            } else if !first.is_whitespace() {
                file.tokens.push(token.replace('\u{1}', "::"));
            }
        }
        file
    }

    fn add_uses(&mut self, prefix: &[String], tree: &str, public: bool) {
        let (path, list) =
            tree.trim().split_once('{').map_or((tree, None), |(path, list)| (path, Some(list)));
        let (path, alias) =
            path.split_once(" as ").map_or((path, None), |(path, alias)| (path, Some(alias.trim())));
        let words = path.split('\u{1}').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty());
        let mut path: Words = prefix.iter().cloned().chain(words).collect();
        if let Some(list) = list.and_then(|list| list.trim().strip_suffix('}')) {
            let mut depth = 0;
            let outside = |c| {
                depth += i32::from(c == '{') - i32::from(c == '}');
                c == ',' && depth == 0
            };
            for item in list.split(outside).filter(|item| !item.trim().is_empty()) {
                self.add_uses(&path, item, public);
            }
            return;
        }
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let name = alias.unwrap_or(path.last().expect("a use names something")).to_owned();
        self.uses.push((path, name, public));
    }
}
