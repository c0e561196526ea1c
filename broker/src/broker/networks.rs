//! Names of the hosts of other projects, at networks that the projects share.

use super::Broker;

impl Broker {
    /// Tells the other projects of this one, and learns of them.
    pub(crate) fn join_networks(&mut self) {
        if let Err(error) = self.networks.join(&self.registry) {
            tracing::warn!("{error}: projects at the same networks do not find this project's hosts by name");
        }
        self.learn_of_others();
    }

    /// Another project has come or gone, perhaps.
    pub(super) fn networks_changed(&mut self) {
        if self.networks.has_changed() {
            self.learn_of_others();
            self.write_hosts_file();
        }
    }

    fn learn_of_others(&mut self) {
        let others = self.networks.others(&self.planes);
        self.names.write().know_others(&others);
    }
}
