//! Programs that this process starts itself, as data: what they are called with, and what their configuration says.
//!
//! In arguments and configuration `{port}` is where it is to listen, `{spare}` another free port, `{old}` the server behind it, `{old_port}` its port, `{new}` the
//! second one for those that write to two, `{folder}` a folder of its own, `{config}` the file with the configuration.

use anyhow::{Context, Result, bail};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How a program is started.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// On PATH, or a path.
    pub binary: PathBuf,
    /// With placeholders.
    pub args: Vec<String>,
    /// With placeholders; empty: there is no file.
    pub config: String,
    /// More files in its folder, by name, with placeholders.
    pub files: &'static [(&'static str, &'static str)],
    /// It has twinlane's admin port on `{spare}`.
    pub twinlane: bool,
}

/// Those that are known by name.
const KNOWN: &[(&str, &[&str], &str)] = &[
    (
        "nutcracker",
        &["-c", "{config}", "-a", "127.0.0.1", "-s", "{spare}", "-o", "{folder}/log"],
        "bench:\n  listen: 127.0.0.1:{port}\n  hash: fnv1a_64\n  distribution: ketama\n  redis: true\n  servers:\n   - {old}:1\n",
    ),
    (
        "haproxy",
        &["-db", "-f", "{config}"],
        "global\n  maxconn 4000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\nlisten bench\n  bind \
         127.0.0.1:{port}\n  server redis {old}\n",
    ),
    (
        "predixy",
        &["{config}"],
        "Name bench\nBind 127.0.0.1:{port}\nWorkerThreads 1\nLog {folder}/log\nAuthority {\n  Auth {\n    Mode write\n  \
         }\n}\nStandaloneServerPool {\n  Databases 16\n  Hash crc16\n  Distribution modula\n  RefreshMethod fixed\n  Group one {\n    + \
         {old}\n  }\n}\n",
    ),
    (
        "envoy",
        &["-c", "{config}", "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"],
        "static_resources:\n  listeners:\n  - address: {socket_address: {address: 127.0.0.1, port_value: {port}}}\n    filter_chains:\n    \
         - filters:\n      - name: envoy.filters.network.redis_proxy\n        typed_config:\n          \
         \"@type\": type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy\n          stat_prefix: bench\n          \
         settings: {op_timeout: 5s}\n          prefix_routes: {catch_all_route: {cluster: old}}\n  clusters:\n  - name: old\n    \
         connect_timeout: 5s\n    type: STATIC\n    load_assignment:\n      cluster_name: old\n      endpoints:\n      - lb_endpoints:\n        \
         - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {old_port}}}}\n",
    ),
    (
        "shotover",
        &["--topology-file", "{config}", "--config-file", "{folder}/main.yaml"],
        "sources:\n  - Valkey:\n      name: bench\n      listen_addr: 127.0.0.1:{port}\n      connection_limit: 20000\n      chain:\n        \
         - Tee:\n            name: tee\n            behavior: Ignore\n            buffer_size: 10000\n            chain:\n              \
         - QueryTypeFilter:\n                  name: writes\n                  DenyList: [Read]\n              \
         - ValkeySinkSingle:\n                  name: new\n                  remote_address: {new}\n                  connect_timeout_ms: \
         3000\n        - ValkeySinkSingle:\n            name: old\n            remote_address: {old}\n            connect_timeout_ms: 3000\n",
    ),
    (
        "twinlane",
        &[
            "serve",
            "--listen",
            "127.0.0.1:{port}",
            "--admin",
            "127.0.0.1:{spare}",
            "--old",
            "redis://{old}",
            "--new",
            "redis://{new}",
            "--state-dir",
            "{folder}/state",
        ],
        "",
    ),
];

/// Its settings that are not of the topology.
const SHOTOVER_FILES: &[(&str, &str)] = &[("main.yaml", "main_log_level: warn\nobservability_interface: 127.0.0.1:{spare}\n")];

impl Recipe {
    /// By the name that a target begins with; another `binary` than the one on PATH, `args` and the file with a `config` may be given, and
    /// must be for one that is not known.
    pub fn find(name: &str, binary: Option<&str>, args: Option<&str>, config: Option<&str>) -> Result<Recipe> {
        let known = KNOWN.iter().find(|(known, ..)| name.starts_with(known));
        let binary = match (binary, known) {
            (Some(binary), _) => binary,
            (None, Some((known, ..))) => known,
            (None, None) => bail!("{name} is not known here: give binary=PATH, args=... and config=FILE"),
        };
        let args = match (args, known) {
            (Some(args), _) => args.split(' ').map(str::to_owned).collect(),
            (None, Some((_, args, _))) => args.iter().map(|arg| (*arg).to_owned()).collect(),
            (None, None) => Vec::new(),
        };
        let config = match (config, known) {
            (Some(file), _) => std::fs::read_to_string(file).with_context(|| file.to_owned())?,
            (None, Some((.., config))) => (*config).to_owned(),
            (None, None) => String::new(),
        };
        let is = |name: &str| known.is_some_and(|(known, ..)| *known == name);
        let files: &[(&str, &str)] = if is("shotover") { SHOTOVER_FILES } else { &[] };
        Ok(Recipe { binary: binary.into(), args, config, files, twinlane: is("twinlane") })
    }
}

/// A process that ends, and whose folder goes, with this value.
#[derive(Debug)]
pub struct Started {
    name: String,
    recipe: Recipe,
    old: String,
    new: Option<String>,
    folder: PathBuf,
    /// None before it was started.
    child: Option<Child>,
    /// `host:port` where it serves.
    pub address: String,
    /// `host:port` of `{spare}`.
    pub spare: String,
}

impl Drop for Started {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Started {
    /// Starts it before these servers and waits until it listens.
    pub fn start(name: &str, recipe: Recipe, old: &str, new: Option<&str>) -> Result<Started> {
        let needs_new = recipe.config.contains("{new}") || recipe.args.iter().any(|arg| arg.contains("{new}"));
        if needs_new && new.is_none() {
            bail!("{name} writes to two servers: give new=HOST:PORT");
        }
        let folder = std::env::temp_dir().join(format!("loadtest-{name}-{}-{}", std::process::id(), free_port()?));
        std::fs::create_dir_all(&folder)?;
        let (name, old, new) = (name.to_owned(), old.to_owned(), new.map(str::to_owned));
        let (address, spare) = Default::default();
        let mut started = Started { name, recipe, old, new, folder, child: None, address, spare };
        started.launch()?;
        Ok(started)
    }

    /// Another process of the same program, before the same servers, with the folder of the one that it ends; on other ports.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        self.launch()
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn launch(&mut self) -> Result<()> {
        let (port, spare) = (free_port()?, free_port()?);
        // Envoy tells the language by the ending.
        let config = self.folder.join("config.yaml");
        let fill = |text: &str| {
            text.replace("{port}", &port.to_string())
                .replace("{spare}", &spare.to_string())
                .replace("{old}", &self.old)
                .replace("{old_port}", self.old.rsplit(':').next().unwrap_or_default())
                .replace("{new}", self.new.as_deref().unwrap_or_default())
                .replace("{folder}", &self.folder.to_string_lossy())
                .replace("{config}", &config.to_string_lossy())
        };
        std::fs::write(&config, fill(&self.recipe.config))?;
        for (name, text) in self.recipe.files {
            std::fs::write(self.folder.join(name), fill(text))?;
        }
        let log = std::fs::File::create(self.folder.join("output"))?;
        let mut command = Command::new(&self.recipe.binary);
        command.args(self.recipe.args.iter().map(|arg| fill(arg))).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("{} cannot be started", self.recipe.binary.display()))?;
        let local = |port: u16| format!("127.0.0.1:{port}");
        (self.address, self.spare) = (local(port), local(spare));
        self.child = Some(child);
        self.wait_until_listening()
    }

    fn wait_until_listening(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&self.address).is_err() {
            let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            if ended.is_some() || Instant::now() > deadline {
                let output = tail(&self.folder.join("output"));
                let ended = ended.map_or(String::new(), |status| format!(": {status}"));
                bail!("{} does not listen on {}{ended}\n{output}", self.name, self.address);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(12).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_must_be_told() {
        assert!(Recipe::find("unknown", None, None, None).is_err());
        let recipe = Recipe::find("unknown", Some("/opt/unknown"), Some("-c {config}"), None).unwrap();
        assert_eq!((recipe.args.len(), recipe.twinlane), (2, false));
        assert!(Recipe::find("twinlane-off", None, None, None).unwrap().twinlane);
    }

    #[test]
    fn a_program_that_ends_at_once_is_told_with_its_words() {
        let recipe = Recipe {
            binary: "sh".into(),
            args: vec!["-c".into(), "echo no such option >&2; exit 3".into()],
            config: String::new(),
            files: &[],
            twinlane: false,
        };
        let error = format!("{:#}", Started::start("x", recipe.clone(), "127.0.0.1:1", None).unwrap_err());
        assert!(error.contains("no such option"), "{error}");
        let dual = Recipe { args: vec!["{new}".into()], ..recipe };
        assert!(format!("{:#}", Started::start("x", dual, "127.0.0.1:1", None).unwrap_err()).contains("new=HOST:PORT"));
    }
}
