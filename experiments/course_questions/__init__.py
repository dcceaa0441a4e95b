"""Questions of a first course on recurrent networks, answered by small trainings with seeds."""
