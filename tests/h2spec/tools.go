//go:build tools

// Package tools names what is built here, so that its version stays pinned.
package tools

import _ "github.com/summerwind/h2spec/cmd/h2spec"
