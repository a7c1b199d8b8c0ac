//! Tests in a real cluster: its control plane alone, or with two nodes.

mod bed;
<<<<<<< HEAD
mod controller;
mod deploy;
=======
mod node;
>>>>>>> node
mod nodes;
mod pools;
mod rbac;
