//! The project's files are made anew when another process removes the files (a cleaner of /tmp, a
//! logout, a person), so that the project stays whole. Then `up`, `ps`, `down` and supervisors find
//! the broker, and the next broker finds this broker's state.

use std::time::Duration;

use imsup_protocol::ToSupervisor;
use imsup_wire::HostName;

use super::Broker;
use super::timers::Timer;
use crate::absent;
use crate::error::BrokerError;
use crate::ids::HostId;
use crate::project_directories::{RUNTIME, STATE, make_directory};
use crate::project_files;
use crate::watch;

/// The time until the next look after files were missing. The removal may still go on. If the files
/// cannot be made anew, that may change (`$XDG_RUNTIME_DIR` is made by root, at the next login).
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Broker {
    /// A file was removed from the project's directories, or a file system was mounted.
    pub(super) fn files_changed(&mut self, number: u32) {
        let changes = self.files.watch.take(number);
        for name in changes.running {
            let id = name.parse::<HostName>().ok().and_then(|name| self.hosts.named(&name));
            if let Some(id) = id {
                self.retake_running(id);
            }
        }
        if changes.files {
            self.restore_files();
        }
    }

    /// Makes missing files, and looks again until none is missing.
    pub(crate) fn restore_files(&mut self) {
        let outcome = self.make_missing();
        self.files.watch.renew(&self.paths);
        if !matches!(outcome, Ok(false)) && !std::mem::replace(&mut self.files.looks_again, true) {
            self.timers.after(LOOK_AGAIN, Timer::Files);
        }
        match outcome {
            Ok(false) => {}
            Ok(true) => {
                self.files.warned = false;
                tracing::warn!(
                    "somebody removed files of the project, which is up; they were made anew in {} and {}",
                    self.paths.runtime().display(),
                    self.paths.state().display()
                );
            }
            Err(error) => {
                if !std::mem::replace(&mut self.files.warned, true) {
                    tracing::error!(
                        "somebody removed files of the project, which is up, and they cannot be made anew: {error}. Its hosts run on, and it is tried again \
                         and again; until then no host boots, and no verb but `imsup down` finds the project. SIGTERM to this process ({}) ends it as well",
                        std::process::id()
                    );
                }
            }
        }
    }

    /// The time for another look has come.
    pub(super) fn look_at_files_again(&mut self) {
        self.files.looks_again = false;
        self.restore_files();
    }

    /// Makes missing files; true if any were missing.
    fn make_missing(&mut self) -> Result<bool, BrokerError> {
        let file_error = |what, path: std::path::PathBuf| move |source| BrokerError::File { what, path, source };
        let mut made = self.files.warned;
        for (number, directory) in watch::directories(&self.paths).iter().enumerate() {
            if !directory.is_dir() {
                let kind = if number < 2 { &RUNTIME } else { &STATE };
                make_directory(kind, directory)?;
                made = true;
            }
        }
        // The lock first: its holder has the project.
        if !self.files.has_lock(&self.paths) {
            self.files.lock.retake(&self.cluster.project, &self.paths)?;
            made = true;
        }
        made |= self.retake_keeper();
        if !self.files.has_socket(&self.paths) {
            self.listen_again()?;
            made = true;
        }
        made |= self.write_missing();
        let restored = self.journal.restore(|host| self.hosts.named(host).is_some());
        restored.map_err(file_error("the history", self.paths.events()))?;
        for id in self.hosts.ids().collect::<Vec<_>>() {
            made |= self.retake_running(id);
        }
        Ok(made)
    }

    /// Listens at the socket's path again. Connections to the old socket are accepted first.
    fn listen_again(&mut self) -> Result<(), BrokerError> {
        self.accept();
        self.sessions.unwatch_listener(&self.registry);
        // If that fails the old one is kept: nobody finds it, but what is tried again begins with
        // one.
        let listener = project_files::listen(&self.paths, &self.registry)?;
        self.sessions.listen(listener);
        self.files.note_socket(&self.paths);
        Ok(())
    }

    /// Writes missing files that are written only now and then; true if any were missing. A failure
    /// is logged by the writer, and loses only that file.
    fn write_missing(&mut self) -> bool {
        let is_missing = |path: std::path::PathBuf| !path.exists();
        let mut made = false;
        if is_missing(self.paths.hosts()) {
            self.write_hosts_file();
            made = true;
        }
        if is_missing(self.paths.directory()) && !self.cluster.hosts.is_empty() {
            project_files::note_directory(&self.cluster, &self.paths);
            made = true;
        }
        if is_missing(self.paths.cgroups()) {
            absent::note_cgroups(&self.paths, &self.launcher.cgroups());
        }
        if is_missing(self.paths.lock_note()) {
            self.files.lock.note(&self.paths);
        }
        if is_missing(self.paths.up()) {
            self.clock.write(&self.paths.up());
        }
        if is_missing(self.paths.projects()) {
            self.remember();
        }
        match self.networks.restore() {
            Ok(restored) => made |= restored,
            Err(error) => tracing::warn!("{error}: projects at the same networks do not find this project's hosts"),
        }
        if let Err(error) = self.files.routes.restore(&self.paths) {
            tracing::warn!("{error}: if this broker is killed, the project's route stays");
        }
        if let Err(error) = self.leases.restore() {
            tracing::warn!("{error}: leases of `imsup keep-awake` end with this broker");
        }
        made
    }

    /// Has a host's supervisor make anew the file that shows others that the supervisor runs; true
    /// if the file was missing. At the end, the supervisor removes the file itself and receives no
    /// more messages.
    fn retake_running(&mut self, id: HostId) -> bool {
        let Some(session) = self.hosts[id].session() else {
            return false;
        };
        let is_missing = !self.paths.running(self.name_of(id).as_str()).exists();
        if is_missing {
            self.tell(session, &ToSupervisor::RetakeRunning, Vec::new());
        }
        is_missing
    }
}
