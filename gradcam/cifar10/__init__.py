"""Our own CIFAR-10 network: its architecture, data, training, evaluation and figures."""
