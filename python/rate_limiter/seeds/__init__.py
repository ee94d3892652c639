"""Classes for programs written for five public demos. The rest of the package does not use them."""
