"""What is computed: each stage is one function of (config, inputs on disk) to outputs on disk."""
