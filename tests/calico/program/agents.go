package main

import (
	"github.com/projectcalico/calico/confd/pkg/config"
	"github.com/projectcalico/calico/confd/pkg/run"
	"github.com/projectcalico/calico/felix/daemon"
	"github.com/projectcalico/calico/node/pkg/allocateip"
	"github.com/projectcalico/calico/node/pkg/lifecycle/startup"
)

// Node's own first step: it registers the node that NODENAME names, and takes addresses for its tunnels.
func begin() error {
	startup.VERSION = version
	startup.Run()
	allocateip.Run(nil)
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
