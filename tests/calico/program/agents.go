package main

import (
	"github.com/projectcalico/calico/confd/pkg/config"
	"github.com/projectcalico/calico/confd/pkg/run"
	"github.com/projectcalico/calico/felix/daemon"
	"github.com/projectcalico/calico/node/pkg/allocateip"
	"github.com/projectcalico/calico/node/pkg/lifecycle/startup"
)

// Node's own first step: it registers the node that NODENAME names.
func begin() error {
	startup.VERSION = version
	startup.Run()
	return nil
}

// Takes addresses for the tunnels that pools ask for, and gives them back.
func addressTunnels() error {
	allocateip.Run(make(chan struct{}))
	return nil
}

// Felix, with what FELIX_... says; its name is FELIX_FELIXHOSTNAME.
func felix() error {
	daemon.Run("/nonexistent", version, "", "")
	return nil
}

// confd with the templates below `directory`, for the node that NODENAME names.
func confd(directory string) error {
	settings, err := config.InitConfig(true)
	if err != nil {
		return err
	}
	settings.ConfDir = directory
	run.Run(settings)
	return nil
}
